//! What agents tell of their nodes' PMI and PMIx servers: how much was said, which the job's report has, and by which library
//! PMIx is served; and of the MPI libraries that programs are linked with.

use std::collections::{BTreeMap, BTreeSet};

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
    /// The first node that has a program's MPI library, its file and length, by the program's number.
    mpis: BTreeMap<u32, (NodeId, String, u64)>,
    /// Programs of which it was said that another node has another.
    said_mpis: BTreeSet<u32>,
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

    /// Takes note of the MPI library that a program has on a node. Gives the first node that told of one, with its file and
    /// length, where that is another build and this has not been told before.
    fn differing_mpi(
        &mut self,
        node: NodeId,
        app: u32,
        file: &str,
        len_bytes: u64,
    ) -> Option<(NodeId, String, u64)> {
        let first = self.mpis.entry(app).or_insert_with(|| (node, file.to_owned(), len_bytes));
        (first.2 != len_bytes && self.said_mpis.insert(app)).then(|| first.clone())
    }
}

impl Job<'_> {
    /// Says once that a program has another build of MPI on two nodes. That their paths differ is nothing to tell of.
    pub(super) fn links_mpi(&mut self, node: NodeId, app: u32, file: &str, len_bytes: u64) {
        if let Some((first, known, known_bytes)) = self.servers.differing_mpi(node, app, file, len_bytes) {
            let host = |node: NodeId| &self.nodes[node.index()].host;
            self.writer.note(format!(
                "the program's MPI is not the same on {} ({file}, {len_bytes} bytes) and on {} ({known}, {known_bytes} bytes): where \
                 ranks do not meet, that may be why",
                host(node),
                host(first)
            ));
        }
    }

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
    fn another_build_of_a_programs_mpi_is_told_once_for_each_program() {
        let mut servers = Servers::default();
        assert_eq!(servers.differing_mpi(NodeId(1), 0, "/a", 7), None);
        assert_eq!(servers.differing_mpi(NodeId(0), 0, "/b", 7), None, "the same elsewhere");
        assert_eq!(servers.differing_mpi(NodeId(0), 1, "/b", 8), None, "another program's");
        let first = Some((NodeId(1), "/a".to_owned(), 7));
        assert_eq!(servers.differing_mpi(NodeId(2), 0, "/a", 9), first);
        assert_eq!(servers.differing_mpi(NodeId(3), 0, "/a", 10), None);
        assert_eq!(servers.differing_mpi(NodeId(3), 1, "/a", 9), Some((NodeId(0), "/b".to_owned(), 8)));
    }

    #[test]
    fn a_second_release_of_libpmix_is_told_once() {
        let mut servers = Servers::default();
        assert_eq!(servers.differing_libpmix(NodeId(1), "5.0.9"), None);
        assert_eq!(servers.differing_libpmix(NodeId(0), "5.0.9"), None);
        assert_eq!(servers.differing_libpmix(NodeId(2), "4.2.2"), Some((NodeId(1), "5.0.9".to_owned())));
        assert_eq!(servers.differing_libpmix(NodeId(3), "4.2.2"), None);
    }
}
