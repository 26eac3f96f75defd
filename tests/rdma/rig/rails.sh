# Run as root in the guest, with bash -e. Rail i joins the soft-RoCE devices rxa<i> (over ra<i>, 10.77.<i>.1)
# and rxb<i> (over rb<i>, 10.77.<i>.2) by a pair of veth devices; all in one network namespace, for
# this kernel's rxe receives in the first one only. Both GIDs of a device, link-local and IPv4, cross
# the wire between the two.
#
# RIG_RAILS: how many. RIG_MTU: of the veth devices; 4200 gives the RoCE MTU 4096.
modprobe -a crc32_generic ib_uverbs rdma_ucm rdma_rxe veth sch_netem sch_tbf sch_htb 2>/dev/null || true
# perftest divides by it, and an emulated processor shows none.
if ! grep -q 'cpu MHz' /proc/cpuinfo; then
    sed 's/^processor.*/&\ncpu MHz\t\t: 2600.000/' /proc/cpuinfo >/run/cpuinfo
    mount --bind /run/cpuinfo /proc/cpuinfo
fi
sysctl_write() { for name in $2; do echo "$1" >"/proc/sys/net/$name"; done; }
# Else link-local GIDs work only after about two seconds.
sysctl_write 0 "ipv6/conf/all/accept_dad ipv6/conf/default/accept_dad"
# Both ends' addresses are local here: the local table is looked up late, and traffic of a rail is sent
# to its wire before.
sysctl_write 0 "ipv4/conf/all/rp_filter ipv4/conf/default/rp_filter"
sysctl_write 2 "ipv4/conf/all/arp_announce"
sysctl_write 1 "ipv4/conf/all/accept_local ipv4/conf/default/accept_local ipv4/conf/all/arp_ignore"
network="rule add pref 32000 lookup local"$'\n'"rule del pref 0"$'\n'
devices=
for ((rail = 0; rail < RIG_RAILS; rail++)); do
    network+="link add ra$rail mtu $RIG_MTU type veth peer name rb$rail mtu $RIG_MTU"$'\n'
    for side in a b; do
        [ $side = a ] && me=1 you=2 table=$((1000 + rail)) || { me=2 you=1 table=$((2000 + rail)); }
        net=10.77.$rail
        network+="addr add $net.$me/24 dev r$side$rail"$'\n'"link set r$side$rail up"$'\n'
        network+="route add $net.$you/32 dev r$side$rail src $net.$me table $table"$'\n'
        network+="rule add pref 10 iif r$side$rail lookup local"$'\n'
        network+="rule add pref 20 from $net.$me to $net.$you lookup $table"$'\n'
        devices+="link add rx$side$rail type rxe netdev r$side$rail"$'\n'
    done
done
ip -batch - <<<"$network"
rdma -b /dev/stdin <<<"$devices"
