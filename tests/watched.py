"""Python code for a process of its own that says how many bytes of memory a call takes at most."""

# Defines `most_bytes(call)`, which returns the largest growth of anonymous memory during the call, and what the call returns.
MOST_BYTES = """
import re, threading, time

def anonymous():
  return int(re.search(r'RssAnon:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10

def most_bytes(call):
  before, peak, done = anonymous(), [0], [False]

  def watch():
    while not done[0]:
      peak[0] = max(peak[0], anonymous())
      time.sleep(0.002)

  thread = threading.Thread(target=watch)
  thread.start()
  result = call()
  done[0] = True
  thread.join()
  return peak[0] - before, result
"""
