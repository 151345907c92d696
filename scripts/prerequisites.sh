# shellcheck shell=bash
# What building takes: a C toolchain (librdkafka and SQLite are compiled in), OpenSSL's headers, Rust.
# Sourced by scripts/demo and scripts/test. On Debian and Ubuntu, missing packages are installed where
# that needs no password; everywhere else they are named.

say() { printf '%s\n' "$*" >&2; }
stop() {
    say "error: $*"
    exit 1
}

require_build_tools() {
    local missing=()
    command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null || missing+=(build-essential)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
    pkg-config --exists zlib 2>/dev/null || missing+=(zlib1g-dev)
    install_or_name "${missing[@]}"
    require_rust
}

# require_command COMMAND PACKAGE
require_command() { command -v "$1" >/dev/null || install_or_name "$2"; }

# The examples are handlers in other languages; what they need follows from what is there.
require_example_languages() {
    require_command python3 python3
    if [[ -n $(find examples -name '*.go' 2>/dev/null) ]]; then require_command go golang-go; fi
    if [[ -n $(find examples -name '*.java' 2>/dev/null) ]]; then require_command javac openjdk-17-jdk-headless; fi
}

install_or_name() {
    [[ $# -gt 0 ]] || return 0
    local as_root=()
    if [[ $(id -u) -ne 0 ]]; then as_root=(sudo -n); fi
    if ! command -v apt-get >/dev/null; then
        stop "missing; on Debian the packages are called: $*"
    fi
    if [[ ${#as_root[@]} -gt 0 ]] && ! sudo -n true 2>/dev/null; then
        stop "missing packages; please run: sudo apt-get install $*"
    fi
    say "installing $*"
    "${as_root[@]}" apt-get update -q >/dev/null || say "apt-get update failed; trying with the lists there are"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@" >/dev/null </dev/null
}

require_rust() {
    # Installed for this user, but not in this shell's path: the usual state right after rustup.
    if ! command -v cargo >/dev/null && [[ -r $HOME/.cargo/env ]]; then
        # shellcheck source=/dev/null
        source "$HOME/.cargo/env"
    fi
    if ! command -v cargo >/dev/null && [[ -t 0 && -t 2 ]]; then
        local answer
        read -r -p "Rust is missing. Install it for this user with rustup (https://rustup.rs)? [y/N] " answer
        if [[ $answer == [yY]* ]]; then
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
            # shellcheck source=/dev/null
            source "$HOME/.cargo/env"
        fi
    fi
    command -v cargo >/dev/null || stop "Rust is missing. Install it with
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y
    . \"\$HOME/.cargo/env\"
and run this again. (Debian 12's own rustc is too old.)"
    require_rust_version
}

require_rust_version() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d' ' -f2)
    [[ $(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n1) == "$wanted" ]] ||
        stop "Rust $wanted or newer is needed, this is $found. With rustup: rustup update stable"
}
