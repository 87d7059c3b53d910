# The launch scripts source this file without arguments. It removes --dry-run from the script's arguments, in any position, and
# defines the functions that refuse unknown arguments. The scripts check every argument before they call a tool.

dry=
for word in "$@"; do  # moves every other argument to the back
  shift
  if [ "$word" = --dry-run ]; then dry=1; else set -- "$@" "$word"; fi
done

# send COMMAND...: runs a command that reads stdin; with --dry-run it prints stdin instead.
send() {
  if [ -n "$dry" ]; then cat; else "$@"; fi
}

# refuse WORD PROBLEM FIX: prints the error and ends the script.
refuse() {
  printf 'error: %q: %s; fix: %s\n' "$@" >&2
  exit 2
}

# check_flags WORD...: refuses an argument that is no flag of espo_jax.train or absl with its value in the same word. It does not
# check names and values of config fields, because train does.
check_flags() {
  local word
  for word in "$@"; do
    case $word in
      --config=?* | --workdir=?* | --compilation_cache_dir=* | --config.?* | --noconfig.?*) continue ;;
      --flagfile=* | --undefok=* | --v=* | --verbosity=* | --stderrthreshold=* | --log_dir=* | --logger_levels=*) continue ;;
      --profile_file=* | --check_memory=* | --nocheck_memory | --log=* | --changed=*) continue ;;
    esac
    case ${word%%=*} in
      --logtostderr | --alsologtostderr | --showprefixforinfo | --only_check_args | --pdb | --pdb_post_mortem | \
        --run_with_pdb | --run_with_profiling | --use_cprofile_for_profiling) ;;
      *)
        refuse "$word" 'no flag of espo_jax.train with its value' \
          'flags such as --config=experiments/gsm8k.py --workdir=/runs/gsm8k --config.seed=1, and --dry-run'
        ;;
    esac
  done
}
