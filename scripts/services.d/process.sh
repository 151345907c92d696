# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# Starting, watching and ending the servers. Only processes recorded here are ever signalled.

pid_file_of() { echo "$SERVICES_DIR/run/$1.pid"; }

record_pid() { echo "$2 $(start_time_of "$2")" >"$(pid_file_of "$1")"; }

# Prints the pid of a server started by us that still lives.
pid_of() {
    local pid started
    { read -r pid started <"$(pid_file_of "$1")"; } 2>/dev/null || return 1
    [[ -n $started && $(start_time_of "$pid") == "$started" ]] || return 1
    echo "$pid"
}

answers() { pid_of "$1" >/dev/null && "$(kind_of "$1")_ready" "$1" >/dev/null 2>&1; }

all_answer() {
    local name
    for name in "$@"; do
        answers "$name" || return 1
    done
}

# A clean environment, no terminal, a session of its own (the caller's Ctrl-C is not the server's)
# and none of our locks. Every step is an exec, so the recorded pid is the server's own.
launch() {
    local name=$1 home
    shift
    home=$(home_of "${name%%-*}")
    (
        exec </dev/null >>"$home/server.log" 2>&1 9>&-
        cd "$home" || exit
        ulimit -n 65536 2>/dev/null || true
        exec setsid "${AS_USER[@]}" "$@"
    ) &
    record_pid "$name" $!
}

# Fills AS_USER with what puts a command into the right tree and under the right user.
run_as_user_of() {
    local ids environment
    ids=$(id -u "$SERVICE_USER"):$(id -g "$SERVICE_USER")
    environment=(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        HOME="$(home_of "$1")" LANG=C.UTF-8)
    if in_root "$1"; then
        AS_USER=(unshare --mount --propagation private "$BASH" "$here/services.d/enter-root"
            "$ROOT_DIR" "$(home_of "$1")" "$ids" "${environment[@]}")
    else
        AS_USER=(setpriv --reuid "${ids%:*}" --regid "${ids#*:}" --clear-groups "${environment[@]}")
    fi
}

as_user_of() {
    local AS_USER=()
    run_as_user_of "$1"
    (cd / && "${AS_USER[@]}" "${@:2}" 9>&-)
}

start_service() { with_lock "$1" start_locked "$1"; }

start_locked() {
    local name=$1 kind home begun=$SECONDS AS_USER=()
    kind=$(kind_of "$name")
    home=$(home_of "$name")
    if answers "$name"; then
        log "$name is up"
        return
    fi
    ! in_root "$name" || with_lock sid-root ensure_root
    if ! pid_of "$name" >/dev/null; then
        make_home "$name"
        "${kind}_prepare" "$name"
        run_as_user_of "$name"
        "${kind}_launch" "$name"
    fi
    wait_until_ready "$name"
    if [[ ! -e $home/.set-up ]]; then
        "${kind}_set_up" "$name"
        touch "$home/.set-up"
    fi
    log "$name answers on port $(port_of "$name") after $((SECONDS - begun)) s"
}

make_home() {
    local home
    home=$(home_of "$1")
    install -d -m 0750 -o "$SERVICE_USER" -g "$SERVICE_USER" "$home"
    install_server_certificate "$home"
    # A log without end would be the first thing to fill a developer's disk.
    if [[ -f $home/server.log && $(stat -c %s "$home/server.log") -gt 20000000 ]]; then
        mv "$home/server.log" "$home/server.log.1"
    fi
}

# Runs the data folder's first creation once, whole: an interrupted one is thrown away.
once() {
    local marker=$1/.initialised data=$1/data
    [[ ! -e $marker ]] || return 0
    rm -rf "$data" "$1/.set-up"
    "${@:2}"
    touch "$marker"
}

# A killed server leaves its lock file behind and takes it for another's as long as the pid is in
# the process table, dead or not; in a container without a proper init that may be for ever.
drop_stale_locks() {
    local file pid deadline
    for file in "$@"; do
        [[ -f $file ]] || continue
        read -r pid <"$file" || true
        pid=${pid//[!0-9]/}
        deadline=$((SECONDS + 3))
        while [[ -e /proc/$pid ]] && ! start_time_of "$pid" >/dev/null && ((SECONDS < deadline)); do sleep 0.05; done
        start_time_of "$pid" >/dev/null || rm -f "$file"
    done
}

wait_until_ready() {
    local name=$1 deadline=$((SECONDS + ${REDRIVE_SERVICES_WAIT:-120}))
    until "$(kind_of "$name")_ready" "$name" >/dev/null 2>&1; do
        if ! pid_of "$name" >/dev/null; then
            tail -n 20 "$(home_of "$name")/server.log" >&2
            fail "$name ended instead of starting; the end of its log is above"
        fi
        ((SECONDS < deadline)) || fail "$name does not answer; see $(home_of "$name")/server.log"
        sleep 0.1
    done
}

tree_of() {
    local child
    echo "$1"
    for child in $(pgrep -P "$1"); do tree_of "$child"; done
}

# A signal to a server with all its children.
signal_one() {
    local pid pids
    pid=$(pid_of "$2") || return 0
    read -ra pids <<<"$(tree_of "$pid" | tr '\n' ' ')"
    kill -s "$1" "${pids[@]}" 2>/dev/null || true
}

# The way a power cut takes it.
kill_one() {
    signal_one KILL "$1"
    wait_until_gone "$1" 10 || fail "$1 does not die"
}

stop_one() {
    local pid signal=TERM
    if pid=$(pid_of "$1"); then
        # PostgreSQL waits for its clients on TERM; INT is its orderly stop that does not.
        [[ $(kind_of "$1") != postgres ]] || signal=INT
        kill -s "$signal" "$pid" 2>/dev/null || true
        wait_until_gone "$1" 30 || kill_one "$1"
        log "$1 stopped"
    fi
    [[ $(kind_of "$1") != rabbitmq ]] || kill_one "$1-epmd"
}

wait_until_gone() {
    local deadline=$((SECONDS + $2))
    while pid_of "$1" >/dev/null; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

kill_services() {
    local name
    for name in "$@"; do
        kill_one "$name"
        log "$name killed"
    done
}

pause_services() {
    local name
    for name in "$@"; do signal_one STOP "$name"; done
}

resume_services() {
    local name
    for name in "$@"; do signal_one CONT "$name"; done
}

stop_services() {
    local name
    for name in "$@"; do with_lock "$name" stop_one "$name" & done
    wait
}

restart_services() {
    stop_services "$@"
    bring_up "$@"
}

down_services() {
    [[ -d $SERVICES_DIR/run ]] || return 0
    local names=("$@")
    [[ $# -gt 0 ]] || names=("${ALL_SERVICES[@]}")
    stop_services "${names[@]}"
}

clean_services() {
    local names=("$@") name
    [[ $# -gt 0 ]] || names=("${ALL_SERVICES[@]}")
    down_services "${names[@]}"
    for name in "${names[@]}"; do rm -rf "$(home_of "$name")"; done
}

print_status() {
    local name pid state rss
    printf '%-11s %-9s %8s %6s %8s  %s\n' NAME STATE PID PORT RSS_MB LOG
    for name in "${ALL_SERVICES[@]}"; do
        state=down rss=- pid=-
        if pid=$(pid_of "$name"); then
            state=starting
            ! answers "$name" || state=up
            rss=$(($(awk '/^VmRSS/ {print $2}' "/proc/$pid/status") / 1024))
        fi
        printf '%-11s %-9s %8s %6s %8s  %s\n' "$name" "$state" "${pid:--}" "$(port_of "$name")" "$rss" "$(home_of "$name")/server.log"
    done
}
