# In the host's tree, as root of the guest: makes the rails, runs the command with its streams on the
# virtio ports "out" and "err", leaves its exit status in /run/rig/status.
#
# /run/rig is this run's folder on the host. Its file `settings` says: RIG_MODULES (the kernel's),
# RIG_FOLDER (where the command begins), RIG_SHARE (a folder to be written to; empty: none), RIG_RAILS,
# RIG_MTU.
. /run/rig/settings
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
hostname rig
ulimit -l unlimited
ulimit -c 0
mkdir -p "/lib/modules/$(uname -r)"
mount --bind "$RIG_MODULES" "/lib/modules/$(uname -r)"
if [ -n "$RIG_SHARE" ]; then
    mkdir -p "$RIG_SHARE"
    mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=524288,cache=mmap share "$RIG_SHARE" ||
        { echo "rig: the share cannot be mounted" && exit 1; }
fi
ip link set lo up
if ! /bin/bash -e /run/rig/rails.sh; then
    echo "rig: the rails cannot be made"
    exit 1
fi
cut -d ' ' -f 1 /proc/uptime >/run/rig/ready.new
mv /run/rig/ready.new /run/rig/ready
# boot.py compares the clocks.
until [ -e /run/rig/go ]; do sleep 0.1; done

for port in /dev/vport*; do
    case $(cat "/sys/class/virtio-ports/${port#/dev/}/name") in
    out) out=$port ;;
    err) err=$port ;;
    esac
done
# Through cat: a port can be opened once, and programs may open /dev/stdout again.
exec 8> >(exec cat >"$out") 9> >(exec cat >"$err")
cd "$RIG_FOLDER" 2>/dev/null || cd /
/bin/bash /run/rig/command </dev/null >&8 2>&9 8>&- 9>&-
status=$?
exec 8>&- 9>&-
wait
cut -d ' ' -f 1 /proc/uptime >/run/rig/ended
echo "$status" >/run/rig/status
