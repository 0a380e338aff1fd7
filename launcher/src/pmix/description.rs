//! What a node's libpmix is told about itself and the job: keys of the PMIx standard with values. Pure.
//!
//! The two maps would do, as libpmix derives most of the rest from them; what Open MPI's own launcher tells besides is told
//! too, since other clients read it. A rank's list must be whole or missing: libraries take a part of it for all there is.

use efarun_wire::Rank;
use efarun_wire::message::{JobMap, MappedNode};

use super::protocol::{Group, Start, nspace};

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) key: &'static str,
    pub(super) value: Value,
}

/// What is known to whoever asks, by the key that it is asked for.
pub(super) fn known(key: &[u8], job: &str, world_count: u32) -> Option<Info> {
    match key {
        b"pmix.qry.ns" => {
            let names: Vec<String> = (0..world_count).map(|world| nspace(job, world)).collect();
            Some(text("pmix.qry.ns", &names.join(",")))
        }
        // No process set is ever named here.
        b"pmix.qry.psetnum" => Some(info("pmix.qry.psetnum", Value::Size(0))),
        b"pmix.qry.psets" => Some(text("pmix.qry.psets", "")),
        _ => None,
    }
}

/// What those are told who have made a group together.
pub(super) fn of_group(group: &Group, members: &[Rank]) -> Vec<Info> {
    let mut infos = vec![
        info("pmix.grp.ctxid", Value::Size(group.id)),
        info("pmix.grp.mbrs", Value::Ranks(members.to_vec())),
    ];
    if !group.blob.is_empty() {
        infos.push(info("pmix.grp.endpt", Value::Bytes(group.blob.clone())));
    }
    infos
}

/// What a key may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(u32),
    Short(u16),
    /// A rank's number within its world.
    Rank(u32),
    Size(u64),
    Bytes(Vec<u8>),
    /// Ranks by their numbers among all of the job's.
    Ranks(Vec<Rank>),
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
        text("pmix.srv.nspace", &format!("{}-servers", nspace(&start.job, 0))),
        info("pmix.srv.rank", Value::Rank(start.node.0)),
    ]
}

/// What the ranks of a world are told. A library takes a rank's number within its world for its rank.
pub(super) fn of_world(start: &Start, map: &JobMap) -> Vec<Info> {
    let own = map.nodes.get(start.node.index()).map_or(&[][..], |node| &node.ranks);
    let nodes = || map.nodes.iter().enumerate().filter(|(_, node)| !node.ranks.is_empty());
    let names: Vec<&str> = nodes().map(|(_, node)| node.host.as_str()).collect();
    let ranks: Vec<String> = nodes().map(|(_, node)| with_commas(map, &node.ranks)).collect();
    let mut infos = vec![
        text("pmix.jobid", &nspace(&start.job, map.world)),
        info("pmix.univ.size", Value::Number(map.universe_size.max(map.size()))),
        info("pmix.job.size", Value::Number(map.size())),
        info("pmix.max.size", Value::Number(map.size())),
        info("pmix.job.napps", Value::Number(number(map.app_sizes.len()))),
        info("pmix.nmap", Value::Nodes(names.join(","))),
        info("pmix.pmap", Value::RanksOfNodes(ranks.join(";"))),
        info("pmix.num.nodes", Value::Number(number(names.len()))),
        text("pmix.tmpdir", &start.folder),
        text("pmix.nsdir", &start.folder),
    ];
    if map.app_sizes.len() > 1 {
        // Open MPI 5's own, which MPI_INFO_ENV is made of.
        infos.extend([
            text("OMPI_APP_SIZES", &with_blanks(map.app_sizes.iter().copied())),
            text("OMPI_FIRST_RANKS", &with_blanks(first_ranks(map))),
        ]);
    }
    // Open MPI takes a list of local peers for one that has some, and ends with a fault where it is empty.
    if let Some(leader) = own.first() {
        infos.extend([
            info("pmix.local.size", Value::Number(number(own.len()))),
            info("pmix.node.size", Value::Number(number(own.len()))),
            text("pmix.lpeers", &with_commas(map, own)),
            info("pmix.lldr", Value::Rank(within(map, *leader))),
        ]);
    }
    for (node_number, node) in nodes() {
        let ranks = (0..).zip(&node.ranks);
        infos.extend(ranks.map(|(local, rank)| of_rank(map, node_number, node, local, *rank)));
    }
    infos
}

fn of_rank(map: &JobMap, node_number: usize, node: &MappedNode, local_rank: u16, rank: Rank) -> Info {
    let rank = within(map, rank);
    let (app, app_rank) = map.app(rank).expect("every rank of a map is that of a program");
    info(
        "pmix.pdata",
        Value::List(vec![
            info("pmix.rank", Value::Rank(rank)),
            info("pmix.appnum", Value::Number(app)),
            info("pmix.apprank", Value::Rank(app_rank)),
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

/// A rank's number within its world.
fn within(map: &JobMap, rank: Rank) -> u32 {
    map.within(rank).expect("a map is asked about its own ranks")
}

fn with_commas(map: &JobMap, ranks: &[Rank]) -> String {
    ranks.iter().map(|rank| within(map, *rank).to_string()).collect::<Vec<_>>().join(",")
}

/// The first rank of each program.
fn first_ranks(map: &JobMap) -> impl Iterator<Item = u32> {
    map.app_sizes.iter().scan(0, |next, size| {
        let first = *next;
        *next += size;
        Some(first)
    })
}

fn with_blanks(numbers: impl Iterator<Item = u32>) -> String {
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
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
