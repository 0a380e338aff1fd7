"""What every host says of itself.

One shell script runs on each host and writes a line per fact, marked with the host's number, since the lines of several
hosts come mixed. It only reads: /sys, /proc, the EFA installer's list, `fi_info`, and, with two seconds' patience, the
instance's metadata for its type and zone. `SYSFS_PATH` is libibverbs' word for another /sys.
"""

from typing import Dict, List

from .hosts import Hosts, HostsFailed


def ask(hosts: Hosts) -> List[dict]:
    """The facts of every host, in efarun's order."""
    done = hosts.run([], ["sh", "-c", SCRIPT], 120)
    if done.code:
        raise HostsFailed(f"the hosts cannot be asked: {done.complaint()}")
    return parse(done.stdout)


def parse(text: str) -> List[dict]:
    """Takes the script's lines apart; lines of anything else are left out."""
    hosts: Dict[int, dict] = {}
    for line in text.splitlines():
        mark, _, rest = line.partition("|")
        number, _, rest = rest.partition("|")
        key, _, value = rest.partition("|")
        if mark != MARK or not number.isdigit():
            continue
        host = hosts.setdefault(int(number), {"devices": {}, "denied": [], "fi_info": []})
        if key in LISTS:
            host[key].append(value.strip())
        elif key.startswith("device."):
            name, _, content = value.partition(" ")
            host["devices"].setdefault(name, {})[key[len("device.") :]] = content
        else:
            host[key] = value
    return [hosts[number] for number in sorted(hosts)]


MARK = "accept"
LISTS = ("denied", "fi_info")
SCRIPT = r"""
export PATH=/opt/amazon/efa/bin:$PATH:/usr/sbin:/sbin
say() { printf 'accept|%s|%s|%s\n' "${EFARUN_NODE_RANK:-0}" "$1" "$2"; }
text() { cat "$1" 2>/dev/null | head -n 1; }
metadata() { curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/meta-data/$1" 2>/dev/null; }

say host "$(hostname)"
say kernel "$(uname -r)"
say architecture "$(uname -m)"
say cores "$(nproc)"
say memlock_kib "$(ulimit -l)"
say huge_pages_free "$(sed -n 's/^HugePages_Free: *//p' /proc/meminfo)"
say libc "$(ldd --version 2>/dev/null | head -n 1)"
say instance_type "$(text /sys/devices/virtual/dmi/id/product_name)"
if token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token 2>/dev/null); then
    say instance_type "$(metadata instance-type)"
    say zone "$(metadata placement/availability-zone)"
    say placement_group "$(metadata placement/group-name)"
fi
say installer "$(text /opt/amazon/efa_installed_packages)"
say gpus "$(ls /proc/driver/nvidia/gpus 2>/dev/null | wc -l)"
say gpu_driver "$(text /sys/module/nvidia/version)"
for module in efa_nv_peermem nvidia_peermem nv_peer_mem; do
    [ -d /sys/module/$module ] && say peermem $module
done

if tool=$(command -v fi_info); then
    say fi_info_tool "$tool"
    say libfabric "$(fi_info --version 2>/dev/null | sed -n 's/^libfabric: *//p')"
    # Soft devices make their /sys when they are first looked for.
    fi_info -p efa -t FI_EP_RDM 2>&1 | while read -r line; do say fi_info "$line"; done
fi
sys=${SYSFS_PATH:-/sys}
[ -z "$SOFTEFA_DEVICE" ] || say soft_devices "$SOFTEFA_DEVICE"
say efa_driver "$(text "$sys/module/efa/version")"
count=0
for device in "$sys"/bus/pci/devices/*; do
    [ "$(text "$device/vendor")" = 0x1d0f ] || continue
    case $(text "$device/device") in 0xefa*) count=$((count + 1)) ;; esac
done
say efa_functions $count
for device in "$sys"/class/infiniband/*; do
    [ "$(basename "$(readlink -f "$device/device/driver")")" = efa ] || continue
    name=$(basename "$device")
    port=$device/ports/1
    say device.state "$name $(cut -d' ' -f2 "$port/state")"
    say device.gid "$name $(text "$port/gids/0")"
    say device.firmware "$name $(text "$device/fw_ver")"
    say device.bus "$name $(basename "$(readlink -f "$device/device")")"
    for counter in tx_bytes rx_bytes rx_drops rdma_read_bytes rdma_write_bytes rdma_read_wr_err rdma_write_wr_err \
        retrans_bytes retrans_timeout_events unresponsive_remote_events impaired_remote_conn_events; do
        [ ! -e "$port/hw_counters/$counter" ] || say "device.$counter" "$name $(text "$port/hw_counters/$counter")"
    done
done
for node in /dev/infiniband/uverbs*; do
    [ ! -e "$node" ] || { [ -r "$node" ] && [ -w "$node" ]; } || say denied "$node"
done
"""
