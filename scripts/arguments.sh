# Sourced by the launch scripts, without arguments: takes --dry-run out of the script's arguments, wherever it stands, and has
# the functions that refuse unknown words. No tool is called before every word has been looked at.

dry=
for word in "$@"; do  # every word goes to the back, but for this one
  shift
  if [ "$word" = --dry-run ]; then dry=1; else set -- "$@" "$word"; fi
done

# send COMMAND...: runs a command that reads stdin; under --dry-run prints what it would read.
send() {
  if [ -n "$dry" ]; then cat; else "$@"; fi
}

# refuse WORD PROBLEM FIX: ends the script.
refuse() {
  printf 'error: %q: %s; fix: %s\n' "$@" >&2
  exit 2
}

# check_flags WORD...: each is a flag of espo_jax.train or one of absl's, with its value in the same word. What the fields of the
# config are, and their values, is left to train.
check_flags() {
  local word
  for word in "$@"; do
    case $word in
      --config=?* | --workdir=?* | --compilation_cache_dir=* | --config.?* | --noconfig.?*) continue ;;
      --flagfile=* | --undefok=* | --v=* | --verbosity=* | --stderrthreshold=* | --log_dir=* | --logger_levels=*) continue ;;
      --profile_file=*) continue ;;
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
