//! Requests that wait for their replies.

use std::collections::BTreeMap;

use super::MAX_OPEN_REQUESTS;
use super::error::OobError;
use super::membership::Member;
use crate::message::Target;

/// The next stop of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// The hub's owner.
    Me,
    /// A member.
    Member(Member),
    /// The hub above.
    Upstream,
}

/// A request that went through a hub, or started there, and was not answered yet.
#[derive(Debug, Clone, Copy)]
struct Passage {
    to: Target,
    hop: Hop,
}

/// The requests that are open at one hub, by asker and token. Those of an asker that is gone stay until they are
/// answered: they are few, and nobody asks under its name again.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: BTreeMap<(Target, u64), Passage>,
}

impl Requests {
    /// Takes note of a request that goes on by `hop`.
    pub(super) fn open(&mut self, asker: Target, token: u64, to: Target, hop: Hop) -> Result<(), OobError> {
        self.check_free(asker, token)?;
        if self.open.range((asker, 0)..=(asker, u64::MAX)).count() >= MAX_OPEN_REQUESTS {
            return Err(OobError::TooManyOpenRequests { asker, limit: MAX_OPEN_REQUESTS });
        }
        self.open.insert((asker, token), Passage { to, hop });
        Ok(())
    }

    /// Refuses the token of a request that is not answered yet.
    pub(super) fn check_free(&self, asker: Target, token: u64) -> Result<(), OobError> {
        let is_open = self.open.contains_key(&(asker, token));
        if is_open { Err(OobError::TokenInUse { asker, token }) } else { Ok(()) }
    }

    /// Closes the request that a reply answers. `false` where there is none, or where it went another way than the
    /// reply came from.
    pub(super) fn close(&mut self, asker: Target, token: u64, from: Hop) -> bool {
        let answers = self.open.get(&(asker, token)).is_some_and(|passage| passage.hop == from);
        if answers {
            self.open.remove(&(asker, token));
        }
        answers
    }

    /// Closes the requests that wait for somebody, and says whose they are.
    pub(super) fn close_to(&mut self, waits_for: impl Fn(Target, Hop) -> bool) -> Vec<(Target, u64)> {
        let mut closed = Vec::new();
        self.open.retain(|asker_and_token, passage| {
            let closes = waits_for(passage.to, passage.hop);
            if closes {
                closed.push(*asker_and_token);
            }
            !closes
        });
        closed
    }
}
