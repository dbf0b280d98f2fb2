#!/bin/sh
# Boots systemd as the first process of its own namespaces, over the files of this
# system with a layer above that goes with it. The network is the caller's.
#
# boot.sh DIRECTORY CGROUP, in a mount namespace of its own. `packages` in the
# directory is /mnt inside.
set -eu

if [ $# = 2 ]; then
    # systemd arranges its services in a part of the tree that is its own.
    mount --make-rprivate /
    mkdir -p "$1/cgroup"
    mount -t cgroup2 cgroup2 "$1/cgroup"
    mkdir -p "$1/cgroup/$2"
    echo $$ > "$1/cgroup/$2/cgroup.procs"
    exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child=KILL sh "$0" "$1"
fi

root=$1/root
packages=$1/packages
mkdir -p "$root" "$packages"
mount -t tmpfs cny-machine "$root"
mkdir "$root/upper" "$root/work" "$root/system"
mount -t overlay cny-machine -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" \
    "$root/system"
cd "$root/system"

mount -t proc proc proc
# The interfaces of this network namespace, and a bpffs of its own, as systemd
# mounts it.
mount -t sysfs sysfs sys
mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf sys/fs/bpf
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount --bind "$packages" mnt
# What differs from the system below is there to be looked at.
mount --bind "$root/upper" srv

# As a server that was just installed, whatever a container's image says.
rm -f usr/sbin/policy-rc.d etc/dpkg/dpkg.cfg.d/*
# man-db would look through all pages of this system.
rm -f var/lib/man-db/auto-update
# Nothing but what is asked for, and the log.
rm -rf etc/systemd/system
mkdir -p etc/systemd/system
: > etc/fstab
for unit in usr/lib/systemd/system/sysinit.target.wants/* \
    usr/lib/systemd/system/multi-user.target.wants/* \
    usr/lib/systemd/system/sockets.target.wants/*; do
    case ${unit##*/} in
    systemd-journald*) ;;
    *) ln -sf /dev/null "etc/systemd/system/${unit##*/}" ;;
    esac
done
printf '[Unit]\nDescription=up\nDefaultDependencies=no\n' > etc/systemd/system/cny.target

mkdir old
pivot_root . old
umount -l /old
rmdir /old
export container=cny
exec /usr/lib/systemd/systemd --system --unit=cny.target --log-target=null --show-status=0
