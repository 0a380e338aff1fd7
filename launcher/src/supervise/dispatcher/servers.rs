//! What agents tell of their nodes' PMI and PMIx servers: how much was said, which the job's report has, and by which library
//! PMIx is served.

use std::collections::BTreeMap;

use efarun_wire::{NodeId, Rank};

use super::Job;

/// What has been told.
#[derive(Debug, Default)]
pub struct Servers {
    /// What ranks and their PMI servers have said to each other, in bytes: said by the rank, and to it.
    pub pmi_bytes: BTreeMap<Rank, [u64; 2]>,
    /// What nodes' PMI and PMIx servers have said to each other, in bytes: said by the node's, and to them.
    pub exchange_bytes: BTreeMap<NodeId, [u64; 2]>,
    /// The first node that has a libpmix, and which.
    libpmix: Option<(NodeId, String)>,
    /// It was said that another node has another.
    said_libpmix: bool,
}

impl Servers {
    /// Takes note of the libpmix that a node has. Gives the first node that has one, and that, where it is another release and
    /// this has not been told before.
    fn differing_libpmix(&mut self, node: NodeId, version: &str) -> Option<(NodeId, String)> {
        let (first, known) = self.libpmix.get_or_insert_with(|| (node, version.to_owned()));
        let is_news = known != version && !self.said_libpmix;
        self.said_libpmix |= is_news;
        is_news.then(|| (*first, known.clone()))
    }
}

impl Job<'_> {
    /// Says once that PMIx servers are of two releases: they pass bytes on that only libpmix reads.
    pub(super) fn serves_pmix(&mut self, node: NodeId, version: &str) {
        if let Some((first, known)) = self.servers.differing_libpmix(node, version) {
            let host = |node: NodeId| &self.nodes[node.index()].host;
            self.writer.note(format!(
                "the programs' MPI has another libpmix on {} than on {} ({version}; {known}): where ranks do not meet, that may be why",
                host(node),
                host(first)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_release_of_libpmix_is_told_once() {
        let mut servers = Servers::default();
        assert_eq!(servers.differing_libpmix(NodeId(1), "5.0.9"), None);
        assert_eq!(servers.differing_libpmix(NodeId(0), "5.0.9"), None);
        assert_eq!(servers.differing_libpmix(NodeId(2), "4.2.2"), Some((NodeId(1), "5.0.9".to_owned())));
        assert_eq!(servers.differing_libpmix(NodeId(3), "4.2.2"), None);
    }
}
