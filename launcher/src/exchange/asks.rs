//! Questions that other nodes have not answered yet.

use std::collections::{BTreeMap, VecDeque};

use efarun_wire::NodeId;
use efarun_wire::message::{OobUp, Target};
use efarun_wire::oob::MAX_REQUEST_BYTES;

/// A protocol whose servers ask each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Pmi,
    Pmix,
}

impl Family {
    /// What the ids of its allgathers begin with. No rank may contribute to one by itself.
    pub(crate) const fn id_prefix(self) -> &'static str {
        match self {
            Family::Pmi => "pmi/",
            Family::Pmix => "pmix/",
        }
    }

    /// Whether a token is one of its servers'.
    pub(crate) fn owns(self, token: u64) -> bool {
        (token & PMIX_TOKENS != 0) == (self == Family::Pmix)
    }

    fn first_token(self) -> u64 {
        match self {
            Family::Pmi => 1,
            Family::Pmix => PMIX_TOKENS,
        }
    }
}

/// The open questions of one server, each with what it is about.
#[derive(Debug)]
pub(crate) struct Asks<T> {
    node: NodeId,
    next_token: u64,
    open: BTreeMap<u64, T>,
    /// Those that wait until fewer are open.
    unasked: VecDeque<(NodeId, Vec<u8>, T)>,
    unasked_bytes: usize,
}

impl<T> Asks<T> {
    /// None yet, of the server of this node.
    pub(crate) fn new(node: NodeId, family: Family) -> Asks<T> {
        Asks {
            node,
            next_token: family.first_token(),
            open: BTreeMap::new(),
            unasked: VecDeque::new(),
            unasked_bytes: 0,
        }
    }

    /// Asks another node's server, at once or when fewer questions are open.
    ///
    /// # Errors
    ///
    /// Gives back what a question is about that is too long to be asked, or behind which too many others would wait.
    pub(crate) fn ask(&mut self, to: NodeId, body: Vec<u8>, about: T) -> Result<Option<OobUp>, T> {
        if body.len() > MAX_REQUEST_BYTES {
            return Err(about);
        }
        if self.open.len() >= MAX_OPEN {
            if self.unasked_bytes + body.len() + EACH_BYTES > MAX_UNASKED_BYTES {
                return Err(about);
            }
            self.unasked_bytes += body.len() + EACH_BYTES;
            self.unasked.push_back((to, body, about));
            return Ok(None);
        }
        let token = self.new_token();
        self.open.insert(token, about);
        Ok(Some(OobUp::Request { from: Target::Node(self.node), to: Target::Node(to), token, body }))
    }

    /// Takes note of an answer: gives what its question was about, and the next question where one has waited. Nothing
    /// for an answer to what is not open.
    pub(crate) fn answered(&mut self, token: u64) -> Option<(T, Option<OobUp>)> {
        let about = self.open.remove(&token)?;
        Some((about, self.next_question()))
    }

    /// Asks the question that has waited longest.
    fn next_question(&mut self) -> Option<OobUp> {
        let (to, body, about) = self.unasked.pop_front()?;
        self.unasked_bytes -= body.len() + EACH_BYTES;
        self.ask(to, body, about).ok().flatten()
    }

    /// A token that no other question of this server has.
    pub(crate) fn new_token(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        token
    }
}

const PMIX_TOKENS: u64 = 1 << 63;
/// Both families ask by the node's name, and a hub lets an asker have [`efarun_wire::oob::MAX_OPEN_REQUESTS`] open.
const MAX_OPEN: usize = 24;
/// Of questions that wait: those of each rank of a big node about each of a big job's.
const MAX_UNASKED_BYTES: usize = 32 << 20;
/// What a short question takes up besides.
const EACH_BYTES: usize = 128;
const _: () = assert!(2 * MAX_OPEN <= efarun_wire::oob::MAX_OPEN_REQUESTS);

#[cfg(test)]
mod tests {
    use super::*;

    fn token(said: Option<OobUp>) -> u64 {
        match said {
            Some(OobUp::Request { token, .. }) => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn questions_beyond_the_limit_wait_and_are_asked_in_their_order() {
        let mut asks = Asks::new(NodeId(0), Family::Pmix);
        let first: Vec<u64> =
            (0..MAX_OPEN).map(|about| token(asks.ask(NodeId(1), vec![], about).unwrap())).collect();
        assert!(first.iter().all(|token| Family::Pmix.owns(*token) && !Family::Pmi.owns(*token)));
        assert_eq!(asks.ask(NodeId(1), vec![], 100), Ok(None));
        assert_eq!(asks.ask(NodeId(1), vec![], 101), Ok(None));
        let (about, next) = asks.answered(first[3]).unwrap();
        assert_eq!(about, 3);
        let (about, next) = asks.answered(token(next)).unwrap();
        assert_eq!(about, 100);
        assert_eq!(asks.answered(token(next)).unwrap(), (101, None));
        assert_eq!(asks.answered(first[3]), None, "it is over");
    }

    #[test]
    fn questions_wait_for_their_turn_up_to_a_limit_and_have_room_again_when_others_are_asked() {
        let mut asks = Asks::new(NodeId(0), Family::Pmix);
        let open: Vec<u64> =
            (0..MAX_OPEN).map(|about| token(asks.ask(NodeId(1), vec![], about).unwrap())).collect();
        let long = || vec![0; MAX_REQUEST_BYTES];
        let waiting = MAX_UNASKED_BYTES / (MAX_REQUEST_BYTES + EACH_BYTES);
        for about in 0..waiting {
            assert_eq!(asks.ask(NodeId(1), long(), about), Ok(None));
        }
        assert_eq!(asks.ask(NodeId(1), long(), 7), Err(7));
        asks.answered(open[0]).unwrap();
        assert_eq!(asks.ask(NodeId(1), long(), 8), Ok(None));
    }

    #[test]
    fn what_is_too_long_is_given_back() {
        let mut asks = Asks::new(NodeId(0), Family::Pmi);
        assert_eq!(asks.ask(NodeId(1), vec![0; MAX_REQUEST_BYTES + 1], "about"), Err("about"));
    }
}
