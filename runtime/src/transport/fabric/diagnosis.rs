//! What a failed operation means on EFA, for people: cause and remedy, from the codes of the card and the provider.
//!
//! Pure. The codes are those of libfabric's EFA provider: below 4096 the card's, above its own.

use crate::fabric::Failure;

/// Whom an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way<'a> {
    /// Our card.
    pub(super) nic: &'a str,
    /// The peer's.
    pub(super) peer_nic: &'a str,
    /// The peer's host.
    pub(super) peer_host: &'a str,
}

/// What happened, and what to do about it, as a lowercase fragment.
pub(super) fn explain(failure: &Failure, way: Way<'_>, is_efa: bool) -> String {
    if !is_efa {
        return failure.text.clone();
    }
    let Way { nic, peer_nic, peer_host } = way;
    let (cause, remedy) = match meaning(failure) {
        Some(Meaning { cause, remedy }) => (cause, remedy),
        None => ("the operation failed", "FI_LOG_LEVEL=warn makes libfabric say more"),
    };
    format!(
        "{cause} (from {nic} to {peer_nic} on {peer_host}; EFA code {}: {}); {remedy}",
        failure.provider_code, failure.text
    )
}

/// Whether a failure is of the way between two cards, so that other cards may have a better one.
pub(super) fn is_of_the_way(failure: &Failure) -> bool {
    // The card's codes, and what the provider makes of the first on fabric `efa`.
    const UNRESPONSIVE: [i32; 3] = [13, 4124, 4126];
    const UNREACHABLE: i32 = 15;
    failure.provider_code == UNREACHABLE || UNRESPONSIVE.contains(&failure.provider_code)
}

/// What is known of a peer to which operations are under way that do not end, and of which no error was told.
pub(super) fn explain_stall(under_way: usize, way: Way<'_>) -> String {
    let Way { nic, peer_nic, peer_host } = way;
    let (operations, are) = if under_way == 1 { ("operation", "is") } else { ("operations", "are") };
    format!(
        "{under_way} {operations} from {nic} to {peer_nic} on {peer_host} {are} under way without an end or an error: EFA \
         does so while the other card has no receive for them (receiver not ready, RNR), and while the other process does \
         not come to poll; see what that rank does, and where it does poll, please report this"
    )
}

/// What a code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meaning {
    cause: &'static str,
    remedy: &'static str,
}

fn meaning(failure: &Failure) -> Option<Meaning> {
    let of_code = MEANINGS.iter().find(|(codes, _)| codes.contains(&failure.provider_code));
    of_code.map(|(_, meaning)| *meaning)
}

/// Codes from libfabric's prov/efa/src/efa_errno.h.
const MEANINGS: &[(&[i32], Meaning)] = &[
    (
        &[1],
        Meaning {
            cause: "the card dropped what it was given",
            remedy: "it is lost or was reset: `dmesg` on this host says why, and /sys/class/infiniband what is left",
        },
    ),
    (
        &[5, 7],
        Meaning {
            cause: "a card was given memory that is not registered with it",
            remedy: "this is a fault of efarun, please report it",
        },
    ),
    (
        &[6, 11],
        Meaning {
            cause: "a message was longer than the room for it",
            remedy: "all ranks must run the same efarun; if they do, this is a fault of it, please report it",
        },
    ),
    (
        &[8, 13, 4124, 4126],
        Meaning {
            cause: "it answered before and does not any more",
            remedy: "its process was killed, its host is down or its link is: look there first",
        },
    ),
    (
        &[9, 14],
        Meaning {
            cause: "its endpoint is gone",
            remedy: "its process ended or closed its World early: what it said last tells why",
        },
    ),
    (
        &[10],
        Meaning {
            cause: "it had no receive posted",
            remedy: "the ranks' credits say that it had: this is a fault of efarun, please report it",
        },
    ),
    (
        &[15],
        Meaning {
            cause: "nothing that was sent to it was ever answered",
            remedy: "the security group of both instances must allow all traffic from and to itself, in and out, and \
                     both must be in one subnet; TCP working between them proves neither",
        },
    ),
    (
        &[18, 4125],
        Meaning {
            cause: "its EFA provider does not speak as ours does",
            remedy: "give all nodes the same EFA installer and libfabric",
        },
    ),
    (
        &[4112],
        Meaning {
            cause: "the provider could not register memory for receiving",
            remedy: "`ulimit -l` must be unlimited for what efarun starts there, also in a shell that is not interactive: \
                     /etc/security/limits.conf",
        },
    ),
    (
        &[4127],
        Meaning {
            cause: "it closed its endpoint or its memory while this was under way",
            remedy: "what it said last tells why",
        },
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way<'_> = Way { nic: "rdmap16s27", peer_nic: "rdmap32s27", peer_host: "h2" };

    fn failure(provider_code: i32) -> Failure {
        Failure { context: 0, code: libc::EIO, provider_code, text: "words".into() }
    }

    #[test]
    fn codes_are_told_with_cards_host_cause_and_remedy() {
        for (code, cause, remedy) in [
            (15, "ever answered", "security group"),
            (13, "answered before", "killed"),
            (4124, "answered before", "killed"),
            (9, "is gone", "ended"),
            (7, "not registered", "fault of efarun"),
            (10, "no receive", "fault of efarun"),
            (4112, "register memory", "ulimit -l"),
            (18, "does not speak", "same EFA installer"),
        ] {
            let text = explain(&failure(code), WAY, true);
            assert!(text.contains(cause) && text.contains(remedy), "{code}: {text}");
            assert!(text.contains(&format!("EFA code {code}: words")), "{text}");
            assert!(text.contains("from rdmap16s27 to rdmap32s27 on h2"), "{text}");
        }
    }

    #[test]
    fn a_stall_is_told_with_cards_host_cause_and_remedy() {
        let text = explain_stall(3, WAY);
        assert!(text.starts_with("3 operations from rdmap16s27 to rdmap32s27 on h2 are under way"), "{text}");
        assert!(text.contains("RNR") && text.contains("see what that rank does"), "{text}");
        assert!(explain_stall(1, WAY).starts_with("1 operation from rdmap16s27 to rdmap32s27 on h2 is "));
    }

    #[test]
    fn no_code_has_two_meanings() {
        let mut codes: Vec<i32> = MEANINGS.iter().flat_map(|(codes, _)| codes.iter().copied()).collect();
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }

    #[test]
    fn what_is_not_known_is_passed_on_in_the_providers_words() {
        let text = explain(&failure(4999), WAY, true);
        assert!(text.contains("EFA code 4999: words") && text.contains("FI_LOG_LEVEL"), "{text}");
        assert_eq!(explain(&failure(15), WAY, false), "words");
    }
}
