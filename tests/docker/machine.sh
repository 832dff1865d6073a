# The machine that has only Docker, from within its namespaces, and the peers of what runs on it. To be
# sourced, with $here, $work and $group set.
machine=$work/machine
gateway=172.17.0.1 # the engine's own choice: where containers reach this machine

docker() { chroot "$machine" docker "$@"; }

start_the_machine() {
    mount --bind "$machine" "$machine"
    mount -t proc proc "$machine/proc"
    mount -t sysfs sysfs "$machine/sys"
    mount --rbind /sys/fs/cgroup "$machine/sys/fs/cgroup"
    mount --rbind /dev "$machine/dev"
    mount -t tmpfs tmpfs "$machine/run"
    mount -t tmpfs tmpfs "$machine/tmp"
    mount -t proc proc /proc
    ip link set lo up
    # It pivots: a process that enters a container finds itself at the root of the mounts, chroot or not.
    unshare --mount bash -c 'cd "$1" && pivot_root . . && umount --lazy . && exec dockerd "${@:2}"' \
        dockerd "$machine" --cgroup-parent="/$group" --dns="$gateway" &> "$work/dockerd.log" &
    for _ in {1..300}; do
        if docker version &> /dev/null; then
            return
        fi
        sleep 0.1
    done
    echo "SKIPPED: tests/docker, all of it: the engine does not start: $(tail -n 1 "$work/dockerd.log")" >&2
    exit 0
}

import() { # NAME DIRECTORY [tar's arguments]
    tar -C "$work/$2" --create --exclude=./var/cache/apt --exclude=./var/lib/apt/lists "${@:3}" . \
        | docker import - "standin/$1" > /dev/null
}

make_the_stand_ins() {
    import rust rust
    # What debian:*-slim leaves out.
    import slim debian --exclude=./usr/share/{doc,info,locale,man}/*
    mkdir -p "$work/bare/lib64" "$work/bare/lib"
    cp -L "$work"/debian/lib64/ld-linux-*.so.* "$work/bare/lib64/"
    cp -L "$work"/debian/lib/*-linux-gnu/{libc,libm,libgcc_s}.so.[0-9]* "$work/bare/lib/"
    import bare bare
}

start_the_peers() {
    # An authority's certificate may not stand for a server.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=origin.test \
        -addext subjectAltName=DNS:origin.test -addext basicConstraints=critical,CA:FALSE \
        -keyout "$work/key.pem" -out "$machine/proxy/ca.pem" 2> "$work/log" || { cat "$work/log" >&2; return 1; }
    cat "$work/key.pem" "$machine/proxy/ca.pem" > "$work/origin.pem"
    python3 "$here/origin.py" "$gateway" "$work/origin.pem" &
    python3 "$here/mirror.py" 8080 "${CARGO_HOME:-$HOME/.cargo}" &
}
