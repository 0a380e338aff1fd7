"""Who is measured: efarun and its peers, each at several settings, and the command line of each.

Pure. A setting is data: a name, what it adds to the command line and to the environment. The peers' settings are what
their documentation offers for two hosts and TCP; a table takes the best of each peer at each size. All of them share
two traps of hosts that are namespaces of one machine:

- Open MPI binds a node's first rank to the node's first core. Here both nodes have the same first core, and two
  ranks that poll on it take 4 ms per call. So nothing is bound.
- Open MPI keeps its session in /tmp, which these hosts share. It gets /dev/shm, of which each host has its own.
"""

from dataclasses import dataclass, field

from .peers import RELEASES, Release

SUBNET = "10.88.0.0/16"
INTERFACE = "eth0"
HEAD_INTERFACE = "br0"


@dataclass(frozen=True)
class Setting:
    """One way to run a contender. `only` names the collectives it is meant for, all when empty; `usual` says that it
    takes part in every run, since no other setting beat it everywhere. The others run with `--settings all`."""

    name: str
    argv: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    usual: bool = False


@dataclass(frozen=True)
class Contender:
    """A family at one setting."""

    family: str
    title: str
    setting: Setting
    release: Release | None = None

    @property
    def key(self) -> str:
        return f"{self.family}/{self.setting.name}"

    def argv(self, hosts: list[str], per_host: int, program: list[str], efarun: str) -> list[str]:
        """The command line, typed on the head, that runs `per_host` ranks of `program` on each host."""
        slots = ",".join(f"{host}:{per_host}" for host in hosts)
        total = str(per_host * len(hosts))
        if self.family == "efarun":
            return [efarun, "-H", slots, "-n", total, "-N", str(per_host), *self.setting.argv, *program]
        prefix = str(self.release.prefix)
        if self.family == "mpich":
            start = [self.release.program("mpiexec"), "-hosts", slots, "-n", total, "-iface", HEAD_INTERFACE]
        elif self.family == "openmpi5":
            start = [self.release.program("mpirun"), "--prefix", prefix, "--host", slots, "-n", total]
            start += ["--bind-to", "none", "--prtemca", "prte_if_include", SUBNET]
            start += ["--prtemca", "prte_tmpdir_base", "/dev/shm", "--mca", "btl_tcp_if_include", SUBNET]
        else:
            start = [self.release.program("mpirun"), "--prefix", prefix, "--host", slots, "-n", total]
            start += ["--bind-to", "none", "--mca", "oob_tcp_if_include", SUBNET]
            start += ["--mca", "orte_tmpdir_base", "/dev/shm", "--mca", "btl_tcp_if_include", SUBNET]
        return [*start, *self.setting.argv, *program]

    def env(self) -> dict[str, str]:
        common = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if self.release else {}
        return {**common, **self.setting.env}


def mca(name: str, *pairs: str, only: tuple[str, ...] = (), usual: bool = False) -> Setting:
    """Open MPI parameters, as `key=value`."""
    argv = [word for pair in pairs for word in ("--mca", *pair.split("=", 1))]
    return Setting(name, tuple(argv), only=only, usual=usual)


def _ucx(**variables: str) -> dict[str, str]:
    return {"UCX_TLS": "tcp,self,sm", "UCX_NET_DEVICES": INTERFACE, **variables}


def _ofi(**variables: str) -> dict[str, str]:
    return {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": INTERFACE, **variables}


TCP = ("pml=ob1", "btl=self,sm,tcp")
TCP4 = ("pml=ob1", "btl=self,vader,tcp")
BIG_BUFFERS = ("btl_tcp_sndbuf=4194304", "btl_tcp_rcvbuf=4194304")
BIG_MESSAGES = ("btl_tcp_eager_limit=131072", "btl_tcp_rndv_eager_limit=131072", "btl_tcp_max_send_size=1048576")
DYNAMIC = "coll_tuned_use_dynamic_rules=1"


def _open_mpi_settings(tcp: tuple[str, ...]) -> list[Setting]:
    return [
        mca("tcp", *tcp, usual=True),
        mca("tcp, yield", *tcp, "mpi_yield_when_idle=1"),
        mca("tcp, 2 links", *tcp, "btl_tcp_links=2"),
        mca("tcp, 4 links", *tcp, "btl_tcp_links=4"),
        mca("tcp, 4 MiB socket buffers", *tcp, *BIG_BUFFERS, usual=True),
        mca("tcp, eager to 128 KiB", *tcp, *BIG_MESSAGES),
        mca("tcp, eager to 128 KiB, 4 MiB socket buffers", *tcp, *BIG_MESSAGES, *BIG_BUFFERS),
        mca("tcp, ring", *tcp, DYNAMIC, "coll_tuned_allreduce_algorithm=4", only=("all_reduce",)),
        mca("tcp, segmented ring", *tcp, DYNAMIC, "coll_tuned_allreduce_algorithm=5", only=("all_reduce",)),
        mca("tcp, Rabenseifner", *tcp, DYNAMIC, "coll_tuned_allreduce_algorithm=6", only=("all_reduce",)),
        mca("tcp, recursive doubling", *tcp, DYNAMIC, "coll_tuned_allreduce_algorithm=3", only=("all_reduce",)),
        mca("tcp, binomial", *tcp, DYNAMIC, "coll_tuned_bcast_algorithm=6", only=("broadcast",)),
        mca("tcp, pipeline", *tcp, DYNAMIC, "coll_tuned_bcast_algorithm=3", only=("broadcast",)),
        mca("tcp, two procs", *tcp, DYNAMIC, "coll_tuned_allgather_algorithm=6", only=("all_gather",)),
        mca("tcp, han", *tcp, "coll_han_priority=100"),
        mca("tcp, adapt", *tcp, "coll_adapt_priority=100", only=("broadcast", "reduce")),
    ]


SETTINGS: dict[str, list[Setting]] = {
    "efarun": [Setting("default", usual=True)],
    "mpich": [
        Setting("ucx tcp", env=_ucx(), usual=True),
        Setting("ucx tcp, 4 MiB socket buffers", env=_ucx(UCX_TCP_SNDBUF="4m", UCX_TCP_RCVBUF="4m")),
        Setting("ucx tcp, 256 KiB segments", env=_ucx(UCX_TCP_TX_SEG_SIZE="256k", UCX_TCP_RX_SEG_SIZE="256k")),
        Setting("ucx tcp, rendezvous from 256 KiB", env=_ucx(UCX_RNDV_THRESH="256k")),
        Setting("ucx tcp, copying rendezvous", env=_ucx(UCX_RNDV_SCHEME="am")),
        Setting("ofi tcp", env=_ofi(), usual=True),
            ],
    "openmpi5": [
        *_open_mpi_settings(TCP),
        Setting(
            "ucx tcp",
            ("--mca", "pml", "ucx", "--mca", "pml_ucx_tls", "any", "--mca", "pml_ucx_devices", "any"),
            env=_ucx(),
        ),
        Setting(
            "ofi tcp",
            ("--mca", "pml", "cm", "--mca", "mtl", "ofi", "--mca", "mtl_ofi_provider_include", "tcp"),
            env={"FI_TCP_IFACE": INTERFACE},
        ),
    ],
    "openmpi4": [
        *_open_mpi_settings(TCP4),
        Setting(
            "ucx tcp",
            ("--mca", "pml", "ucx", "--mca", "pml_ucx_tls", "any", "--mca", "pml_ucx_devices", "any"),
            env=_ucx(),
        ),
    ],
}


def all_contenders() -> list[Contender]:
    """efarun first, then every peer at every setting."""
    ours = [Contender("efarun", "efarun", setting) for setting in SETTINGS["efarun"]]
    peers = [
        Contender(release.family, release.title, setting, release)
        for release in RELEASES
        for setting in SETTINGS[release.family]
    ]
    return ours + peers
