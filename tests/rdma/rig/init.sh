#!/bin/busybox sh
# The guest's first process, in the initramfs: shows the host's tree, read-only, below a layer of
# memory that takes what is written, then hands over to stage2.sh in there. Ends by powering off.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
# What boot.py waits for when it tries out how fast a machine can be had.
echo "rig: init runs" >/dev/console
off() {
    sync
    echo o >/proc/sysrq-trigger
    sleep 5
}
case " $(cat /proc/cmdline) " in *" rig.probe "*) off ;; esac

while read -r module; do
    insmod "/mod/$module" || echo "rig: $module cannot be loaded" >/dev/console
done </mod/order
mkdir -p /l /u /r
how=trans=virtio,version=9p2000.L,msize=524288
mount -t 9p -o "ro,$how,cache=loose" hostroot /l || off
mount -t tmpfs -o size=75% tmpfs /u
mkdir -p /u/up /u/wk
mount -t overlay -o lowerdir=/l,upperdir=/u/up,workdir=/u/wk overlay /r || off

for folder in proc sys dev run tmp; do mkdir -p "/r/$folder"; done
mount -t proc proc /r/proc
mount -t sysfs sys /r/sys
mount -t devtmpfs dev /r/dev
mkdir -p /r/dev/pts /r/dev/shm
mount -t devpts devpts /r/dev/pts
mount -t tmpfs shm /r/dev/shm
mount -t tmpfs run /r/run
ln -sf /proc/self/fd /r/dev/fd
ln -sf fd/0 /r/dev/stdin
ln -sf fd/1 /r/dev/stdout
ln -sf fd/2 /r/dev/stderr
mkdir -p /r/run/rig
mount -t 9p -o "rw,$how,cache=none" rundir /r/run/rig || off
chroot /r /bin/bash /run/rig/stage2.sh </dev/null >/dev/console 2>&1
off
