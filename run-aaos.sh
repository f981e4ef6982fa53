#!/usr/bin/env bash
# Builds aaOS if needed and runs one goal in the current directory.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
oldest_rust=1.95

usage() {
  cat <<'TXT'
usage: ./run-aaos.sh [--local [--yes]] "GOAL" [FLAGS OF agentd run]

Builds aaOS (the first time takes a few minutes) and works on GOAL in the current directory.

  ./run-aaos.sh "Read the files in ./docs and write a summary to ./output/summary.md"
  ./run-aaos.sh --local "Read ./notes.md and write its main points to ./output/points.md"

--local has a model on this machine do the thinking, without a key. It builds the program that runs models, and fetches
the model AAOS_MODEL (qwen2.5-coder-1.5b, 1.0 GiB, unless one was added before) where it is not there yet: after it
has asked, or at once with --yes. Where nobody can be asked, and without --yes, nothing is fetched.

Without flags a goal may read the current directory, write below ./output, and fetch from the hosts of URLs
that stand in it. Flags change that, for example --read DIR, --write DIR, --network HOST, --output FILE,
--budget-tokens N; `agentd run --help` lists all of them.

Who does the thinking, first match wins:
  AAOS_PROVIDER       what you name there (deepseek, anthropic, openai, builtin)
  DEEPSEEK_API_KEY    DeepSeek
  ANTHROPIC_API_KEY   Anthropic
  OPENAI_API_KEY      OpenAI, or whatever OPENAI_BASE_URL names
  OPENAI_BASE_URL     a local server that speaks the OpenAI wire (Ollama, llama.cpp, vLLM); name its model in AAOS_MODEL
  none of these       builtin: no language model, a fixed planner that reads, fetches, searches and extracts

Exit codes: 0 done, 1 failed, 2 usage, 3 denied, 4 budget, 5 provider, 6 confinement unavailable, 130 cancelled.
CARGO_TARGET_DIR is honoured.
TXT
}

say() { printf 'run-aaos: %s\n' "$*" >&2; }

usage_error() {
  say "$1"
  usage >&2
  exit 2
}

need_tools() {
  local missing=0
  if ! command -v cargo >/dev/null 2>&1 && [ -x "${HOME:-/nonexistent}/.cargo/bin/cargo" ]; then
    PATH="$HOME/.cargo/bin:$PATH"
  fi
  if ! command -v cargo >/dev/null 2>&1; then
    say "cargo is missing: install Rust $oldest_rust or newer from https://rustup.rs"
    missing=1
  fi
  if ! command -v "${CC:-cc}" >/dev/null 2>&1; then
    say "a C compiler is missing (${CC:-cc}): install gcc or clang (Debian, Ubuntu: apt install build-essential;" \
      "Fedora: dnf install gcc glibc-static)"
    missing=1
  elif [[ $("${CC:-cc}" -print-file-name=libc.a) != /* ]]; then
    say "the C library's archive libc.a is missing, from which the workers' program is linked: install it (Debian," \
      "Ubuntu: apt install libc6-dev; Fedora: dnf install glibc-static)"
    missing=1
  fi
  [ "$(uname -s)" = Linux ] || { say "aaOS runs on Linux; this is $(uname -s)"; missing=1; }
  [ "$missing" = 0 ] || exit 1
}

# Builds what $1 names with the flags that follow. Cargo's own words go to a log; the terminal sees a count, and the end of
# the log if the build fails.
build() {
  local what=$1 log count=0 line
  shift
  log=$(mktemp)
  # --locked: what was tested is what is built.
  local command=(cargo build --release --locked --color never "$@")
  if (
    cd "$root"
    set -o pipefail
    CARGO_TARGET_DIR=$target "${command[@]}" 2>&1 | tee "$log" | while IFS= read -r line; do
      case $line in
        *Compiling*)
          count=$((count + 1))
          [ "$count" != 1 ] || say "building $what; the first time takes a few minutes"
          if [ -t 2 ]; then
            printf '\rrun-aaos: %d crates compiled ' "$count" >&2
          elif [ $((count % 50)) = 0 ]; then
            say "$count crates compiled"
          fi
          ;;
      esac
    done
  ); then
    if [ -t 2 ] && grep -q Compiling "$log"; then printf '\n' >&2; fi
    rm -f "$log"
  else
    say "the build failed; its last lines:"
    tail -n 40 "$log" >&2
    rm -f "$log"
    exit 1
  fi
}

# Whether the model $1 was added, or any without a name.
has_model() {
  local names
  names=$("$target/release/agentd" model list --json) || exit 1
  if [ -n "$1" ]; then [[ $names == *"\"name\":\"$1\""* ]]; else [ "$names" != "[]" ]; fi
}

# The local model is there after it, or the script has ended.
get_model() {
  local name size answer
  if has_model "${AAOS_MODEL:-}"; then return; fi
  name=${AAOS_MODEL:-qwen2.5-coder-1.5b}
  case $name in
    qwen2.5-coder-1.5b) size="1.0 GiB" ;;
    qwen2.5-coder-0.5b) size="469 MiB" ;;
    *)
      say "no local model is called $name, and none of that name can be fetched; \`agentd model list\` names those" \
        "that are there"
      exit 2
      ;;
  esac
  say "the model $name is not there yet; $size have to be fetched"
  if [ "$says_yes" = 0 ]; then
    if ! [ -t 0 ] || ! [ -t 2 ]; then
      say "nothing was fetched, since nobody can be asked; say --yes, or add a file that you have:" \
        "$target/release/agentd model add FILE"
      exit 2
    fi
    printf 'run-aaos: fetch it? [y/N] ' >&2
    read -r answer || answer=
    case $answer in
      y | Y | yes) ;;
      *) say "nothing was fetched"; exit 130 ;;
    esac
  fi
  "$target/release/agentd" model pull "$name" >&2 || exit "$?"
}

pick_provider() {
  local why
  if [ "$is_local" = 1 ]; then
    AAOS_PROVIDER=local why="--local"
  elif [ -n "${AAOS_PROVIDER:-}" ]; then
    why="AAOS_PROVIDER names it"
  elif [ -n "${DEEPSEEK_API_KEY:-}" ]; then
    AAOS_PROVIDER=deepseek why="DEEPSEEK_API_KEY is set"
  elif [ -n "${ANTHROPIC_API_KEY:-}" ]; then
    AAOS_PROVIDER=anthropic why="ANTHROPIC_API_KEY is set"
  elif [ -n "${OPENAI_API_KEY:-}" ]; then
    AAOS_PROVIDER=openai why="OPENAI_API_KEY is set"
  elif [ -n "${OPENAI_BASE_URL:-}" ]; then
    AAOS_PROVIDER=openai why="OPENAI_BASE_URL is set"
  else
    AAOS_PROVIDER=builtin why="no key in the environment; it is no language model"
  fi
  export AAOS_PROVIDER
  say "provider: $AAOS_PROVIDER ($why)"
}

is_local=0 says_yes=0
while :; do
  case ${1-} in
    --local) is_local=1; shift ;;
    --yes) says_yes=1; shift ;;
    *) break ;;
  esac
done
case ${1-} in
  -h | --help) usage; exit 0 ;;
  '') usage_error "a goal is missing" ;;
  -*) usage_error "the goal comes first, then the flags" ;;
esac
[ "$says_yes" = 0 ] || [ "$is_local" = 1 ] || usage_error "--yes goes with --local"
goal=$1
shift

target=${CARGO_TARGET_DIR:-$root/target}
case $target in
  /*) ;;
  *) target=$PWD/$target ;;
esac

need_tools
build aaOS --package agentd --package aaos-tools --package aaos-gateway --bins
if [ "$is_local" = 1 ]; then
  build "the program that runs models" --manifest-path crates/aaos-model/Cargo.toml --target-dir "$target"
  get_model
fi
pick_provider
exec "$target/release/agentd" run "$@" -- "$goal"
