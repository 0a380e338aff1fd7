"""What is wrong with the hosts before anything is sent: pure, from what they said of themselves.

A problem is what EFA does not work with, or not between these hosts; each comes with what to do. A note is what a reader
of the results should know.
"""

from typing import List, Tuple

# How many EFA interfaces an instance type can have (AWS's EC2 User Guide, and aws-ofi-nccl's tables).
CARDS = {
    "p4d.24xlarge": 4,
    "p4de.24xlarge": 4,
    "p5.48xlarge": 32,
    "p5e.48xlarge": 32,
    "p5en.48xlarge": 16,
}
# What must be the same on all hosts, and what it is for people.
ALIKE = {
    "instance_type": "instance types",
    "libfabric": "libfabric versions",
    "installer": "EFA installers",
    "efa_driver": "EFA driver versions",
    "architecture": "CPU architectures",
    "gpus": "numbers of GPUs",
    "zone": "availability zones (EFA does not cross them)",
}


def look_at(hosts: List[dict]) -> Tuple[List[str], List[str]]:
    """Problems and notes."""
    problems: List[str] = []
    notes: List[str] = []
    for host in hosts:
        problems += problems_of(host)
        notes += notes_of(host)
    for key, what in ALIKE.items():
        values = {host.get(key, "") for host in hosts}
        if len(values) > 1:
            each = ", ".join(f"{host['host']} has {host.get(key) or 'none'}" for host in hosts)
            problems.append(f"the hosts have different {what}: {each}")
    if len(hosts) < 2:
        problems.append("there is one host only: name two or more")
    elif not common_cards(hosts) and all(host["devices"] for host in hosts):
        problems.append("no card has the same name on all hosts: take instances of one type")
    return problems, notes


def problems_of(host: dict) -> List[str]:
    """What is wrong with a host by itself."""
    name, devices, problems = host["host"], host["devices"], []
    functions = int(host.get("efa_functions") or 0)
    if functions > len(devices):
        problems.append(
            f"{name}: {functions} EFA interfaces are attached, but the driver has {len(devices)} devices: install AWS's EFA "
            "installer, and after a new kernel once more"
        )
    elif not devices:
        problems.append(f"{name} has no EFA device: attach its network interfaces as EFA when it is launched")
    for device, facts in devices.items():
        if facts.get("state") != "ACTIVE":
            problems.append(f"{name}: the port of {device} is {facts.get('state') or 'unknown'}, not ACTIVE")
        if not facts.get("gid", "").strip("0:"):
            problems.append(f"{name}: {device} has no address (its GID is zero)")
    if host["denied"]:
        problems.append(f"{name}: this user may not use {', '.join(host['denied'])}: containers need them as devices")
    # Soft devices lock nothing.
    if host.get("memlock_kib") != "unlimited" and not host.get("soft_devices"):
        problems.append(
            f"{name}: locked memory is limited to {host.get('memlock_kib')} KiB in a shell that is not interactive: "
            "`* - memlock unlimited` in /etc/security/limits.d/, then log in anew"
        )
    offered = domains(host)
    missing = [device for device in devices if f"{device}-rdm" not in offered]
    if not host.get("fi_info_tool"):
        problems.append(f"{name}: there is no fi_info, neither in /opt/amazon/efa/bin nor in PATH: install AWS's EFA installer")
    elif missing:
        problems.append(
            f"{name}: libfabric {host.get('libfabric')} ({host['fi_info_tool']}) does not offer {', '.join(missing)}: "
            "LD_LIBRARY_PATH may lead to one without EFA"
        )
    if int(host.get("gpus") or 0) and not host.get("peermem") and is_before(host.get("kernel", ""), (5, 12)):
        problems.append(
            f"{name}: GPUs without GPUDirect: neither efa_nv_peermem nor nvidia_peermem is loaded, and kernel "
            f"{host.get('kernel')} has no dma-buf for it: `modprobe efa_nv_peermem`"
        )
    return problems


def notes_of(host: dict) -> List[str]:
    """What a reader should know of a host."""
    name, notes = host["host"], []
    if host.get("soft_devices"):
        notes.append(f"{name}: soft EFA devices, no hardware: speeds say nothing about EFA")
    most = CARDS.get(host.get("instance_type", ""))
    if most and len(host["devices"]) < most:
        notes.append(f"{name}: {len(host['devices'])} EFA devices, where a {host['instance_type']} can have {most}")
    if host.get("huge_pages_free") in ("", "0"):
        notes.append(f"{name}: no free huge pages: the provider takes ordinary ones for its buffers")
    if not host.get("soft_devices") and not host.get("placement_group"):
        notes.append(f"{name} is in no placement group that could be seen: latency between the hosts may vary")
    return notes


def domains(host: dict) -> List[str]:
    """The domains that libfabric offers, by `fi_info`."""
    lines = (line.partition(":") for line in host["fi_info"])
    return [value.strip() for key, _, value in lines if key.strip() == "domain"]


def common_cards(hosts: List[dict]) -> List[str]:
    """The cards that all hosts have by the same name, in the first one's order."""
    if not hosts:
        return []
    return [card for card in hosts[0]["devices"] if all(card in host["devices"] for host in hosts)]


def ranks_per_host(hosts: List[dict]) -> int:
    """One per GPU, as jobs there have; of hosts without GPUs one per card."""
    gpus = min((int(host.get("gpus") or 0) for host in hosts), default=0)
    return gpus or max(1, len(common_cards(hosts)))


def is_before(kernel: str, release: Tuple[int, int]) -> bool:
    """Whether a kernel is older; one that cannot be read is not."""
    numbers = kernel.split("-")[0].split(".")
    if len(numbers) < 2 or not (numbers[0].isdigit() and numbers[1].isdigit()):
        return False
    return (int(numbers[0]), int(numbers[1])) < release
