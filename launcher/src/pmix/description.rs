//! What a node's libpmix is told about itself and the job: keys of the PMIx standard with values. Pure.
//!
//! The two maps would do, as libpmix derives most of the rest from them; what Open MPI's own launcher tells besides is told
//! too, since other clients read it. A rank's list must be whole or missing: libraries take a part of it for all there is.

use efarun_wire::Rank;
use efarun_wire::message::MappedNode;

use super::protocol::Start;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) key: &'static str,
    pub(super) value: Value,
}

/// What a key may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u32),
    Short(u16),
    Rank(Rank),
    /// Names with commas between, to be written as libpmix does.
    Nodes(String),
    /// Ranks with commas between, and nodes with semicolons, to be written as libpmix does.
    RanksOfNodes(String),
    List(Vec<Info>),
}

/// What the server itself is told.
pub(super) fn of_server(start: &Start) -> Vec<Info> {
    vec![
        text("pmix.srvr.tmpdir", &start.folder),
        text("pmix.sys.tmpdir", &start.folder),
        // It takes itself for the node of the map that has this name.
        text("pmix.hname", host_of(start)),
        text("pmix.srv.nspace", &format!("{}-servers", start.nspace)),
        info("pmix.srv.rank", Value::Rank(Rank(start.node.0))),
    ]
}

/// What the job's ranks are told.
pub(super) fn of_job(start: &Start) -> Vec<Info> {
    let nodes = &start.map.nodes;
    let own = nodes.get(start.node.index()).map_or(&[][..], |node| &node.ranks);
    let world_size = number(nodes.iter().map(|node| node.ranks.len()).sum());
    let names: Vec<&str> = nodes.iter().map(|node| node.host.as_str()).collect();
    let ranks: Vec<String> = nodes.iter().map(|node| with_commas(&node.ranks)).collect();
    let mut infos = vec![
        text("pmix.jobid", &start.nspace),
        info("pmix.univ.size", Value::Number(start.map.universe_size.max(world_size))),
        info("pmix.job.size", Value::Number(world_size)),
        info("pmix.max.size", Value::Number(world_size)),
        info("pmix.job.napps", Value::Number(start.app_count)),
        info("pmix.nmap", Value::Nodes(names.join(","))),
        info("pmix.pmap", Value::RanksOfNodes(ranks.join(";"))),
        info("pmix.num.nodes", Value::Number(number(nodes.len()))),
        info("pmix.local.size", Value::Number(number(own.len()))),
        info("pmix.node.size", Value::Number(number(own.len()))),
        text("pmix.lpeers", &with_commas(own)),
        text("pmix.tmpdir", &start.folder),
        text("pmix.nsdir", &start.folder),
    ];
    infos.extend(own.first().map(|leader| info("pmix.lldr", Value::Rank(*leader))));
    for (node_number, node) in nodes.iter().enumerate() {
        infos.extend(
            (0..).zip(&node.ranks).map(|(local, rank)| of_rank(start, node_number, node, local, *rank)),
        );
    }
    infos
}

fn of_rank(start: &Start, node_number: usize, node: &MappedNode, local_rank: u16, rank: Rank) -> Info {
    let app = start.ranks.iter().find(|(own, _)| *own == rank).map_or(0, |(_, app)| *app);
    info(
        "pmix.pdata",
        Value::List(vec![
            info("pmix.rank", Value::Rank(rank)),
            info("pmix.appnum", Value::Number(app)),
            info("pmix.apprank", Value::Rank(rank)),
            info("pmix.grank", Value::Rank(rank)),
            info("pmix.lrank", Value::Short(local_rank)),
            info("pmix.nrank", Value::Short(local_rank)),
            info("pmix.nodeid", Value::Number(number(node_number))),
            text("pmix.hname", &node.host),
            info("pmix.reinc", Value::Number(0)),
        ]),
    )
}

fn host_of(start: &Start) -> &str {
    start.map.nodes.get(start.node.index()).map_or("localhost", |node| &node.host)
}

fn with_commas(ranks: &[Rank]) -> String {
    ranks.iter().map(Rank::to_string).collect::<Vec<_>>().join(",")
}

fn info(key: &'static str, value: Value) -> Info {
    Info { key, value }
}

fn text(key: &'static str, text: &str) -> Info {
    info(key, Value::Text(text.to_owned()))
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("ranks and nodes are numbered by 32 bits")
}
