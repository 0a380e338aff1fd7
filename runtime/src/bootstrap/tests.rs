//! Ranks that meet, over loopback and through an agent's socket, and what others do to them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use efarun_wire::message::{Participants, Target};
use efarun_wire::position::Position;
use efarun_wire::secure::{MAX_HALF_OPEN, SecureError};

use super::identity::Admission;
use super::*;

const LIMIT: Duration = Duration::from_secs(60);

/// An address on loopback that nobody listens at.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

fn meeting(rank: u32, world_size: u32, address: &str, admission: &Admission) -> Identity {
    Identity::Meeting {
        rank: Rank(rank),
        world_size,
        address: address.to_owned(),
        admission: admission.clone(),
    }
}

/// Runs a world at an address, each rank in a thread, and gives what each returned.
fn meet<T: Send>(
    address: &str,
    admissions: &[Admission],
    timeout: Duration,
    rank_main: impl Fn(Result<OobConnection, BootstrapError>) -> T + Sync,
) -> Vec<T> {
    let world_size = admissions.len() as u32;
    std::thread::scope(|scope| {
        let start = |(rank, admission)| {
            let identity = meeting(rank, world_size, address, admission);
            let rank_main = &rank_main;
            scope.spawn(move || {
                rank_main(connect(&identity, timeout).map(|it| it.expect("more than one rank")))
            })
        };
        let threads: Vec<_> = (0..).zip(admissions).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Gathers twice, then leaves in good order.
fn gather_and_leave(connection: Result<OobConnection, BootstrapError>) {
    let mut connection = connection.expect("joined");
    for round in 0..2u32 {
        let blob = [round, connection.rank().0].map(u32::to_le_bytes).concat();
        let all = connection.allgather("test", Participants::World, blob, LIMIT).expect("all contribute");
        let expected = (0..connection.world_size())
            .map(|rank| (Rank(rank), [round, rank].map(u32::to_le_bytes).concat()));
        assert_eq!(all, expected.collect::<Vec<_>>());
    }
    connection.barrier("end", LIMIT).expect("all arrive");
    connection.leave();
}

fn key_file(digit: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), digit.repeat(64)).expect("written");
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).expect("private");
    file
}

#[test]
fn ranks_meet_on_loopback_without_a_key_and_meet_there_again() {
    let address = free_address();
    for _ in 0..2 {
        meet(&address, &vec![Admission::Loopback; 5], LIMIT, gather_and_leave);
    }
}

#[test]
fn ranks_with_the_same_key_meet() {
    let file = key_file("a");
    meet(&free_address(), &vec![Admission::KeyFile(file.path().to_owned()); 3], LIMIT, gather_and_leave);
}

#[test]
fn a_rank_with_another_key_is_refused_and_told_about_the_key_file() {
    let (right, wrong) = (key_file("a"), key_file("b"));
    let admissions = [&right, &right, &wrong].map(|file| Admission::KeyFile(file.path().to_owned()));
    let timeout = Duration::from_secs(2);
    let errors = meet(&free_address(), &admissions, timeout, |connection| {
        let joined = connection.and_then(|mut connection| connection.barrier("all", LIMIT));
        joined.expect_err("the world is never complete").to_string()
    });
    assert!(errors[2].contains("EFARUN_KEY_FILE must have the same content"), "{}", errors[2]);
    for error in &errors[..2] {
        assert!(error.contains("2 of 3 ranks have joined, missing: 2"), "{error}");
    }
}

#[test]
fn a_key_file_that_cannot_be_used_is_named() {
    let short = tempfile::NamedTempFile::new().expect("a file");
    let admission = Admission::KeyFile(short.path().to_owned());
    let refused = connect(&meeting(0, 1, &free_address(), &admission), LIMIT).expect_err("it is empty");
    let refused = refused.to_string();
    assert!(refused.starts_with(&format!("EFARUN_KEY_FILE={}: ", short.path().display())), "{refused}");
}

#[test]
fn missing_ranks_are_named_to_those_who_came() {
    let timeout = Duration::from_millis(700);
    let address = free_address();
    let error = connect(&meeting(0, 4, &address, &Admission::Loopback), timeout)
        .map(|connection| connection.expect("not alone"))
        .and_then(|mut connection| connection.barrier("all", LIMIT))
        .expect_err("nobody else comes");
    assert!(error.to_string().contains("after 1 s 1 of 4 ranks have joined, missing: 1, 2, 3"), "{error}");
}

#[test]
fn whoever_waits_too_long_is_told_who_has_not_joined() {
    let address = free_address();
    let mut connection = connect(&meeting(0, 3, &address, &Admission::Loopback), LIMIT)
        .expect("joined")
        .expect("more than one rank");
    let error =
        connection.barrier("all", Duration::from_millis(50)).expect_err("nobody else comes").to_string();
    assert!(error.contains("1 of 3 ranks joined, missing: 1, 2"), "{error}");
}

#[test]
fn a_meeting_point_that_nobody_serves_is_an_error_with_its_address() {
    let address = free_address();
    let error = connect(&meeting(1, 2, &address, &Admission::Loopback), Duration::from_millis(200))
        .expect_err("nobody is there")
        .to_string();
    assert!(
        error.contains(&address) && error.contains("refused") && error.contains("is rank 0 running"),
        "{error}"
    );
}

#[test]
fn another_program_at_the_meeting_point_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a rank");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("written");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error =
            connect(&meeting(1, 2, &address, &Admission::Loopback), LIMIT).expect_err("no meeting point");
        assert!(
            matches!(&error, BootstrapError::Handshake { cause: SecureError::Stranger { .. }, .. }),
            "{error}"
        );
    });
    let address = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = address.local_addr().expect("its address").to_string();
    let error = connect(&meeting(0, 2, &taken, &Admission::Loopback), LIMIT).expect_err("taken").to_string();
    assert!(error.contains("another program listens there"), "{error}");
}

#[test]
fn beyond_loopback_a_key_or_a_wish_is_needed() {
    for rank in 0..2 {
        let error =
            connect(&meeting(rank, 2, "192.0.2.1:7000", &Admission::Loopback), LIMIT).expect_err("refused");
        assert!(matches!(error, BootstrapError::NoKey { .. }), "{error}");
        assert!(error.to_string().contains("EFARUN_KEY_FILE"), "{error}");
    }
    let error = connect(&meeting(0, 2, "192.0.2.1:7000", &Admission::Anybody), LIMIT).expect_err("not ours");
    assert!(error.to_string().contains("must be an address of the machine that rank 0 runs on"), "{error}");
}

#[test]
fn strangers_at_the_port_disturb_nobody() {
    let address = free_address();
    let all_strangers_are_there = Barrier::new(2);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let connection = connect(&meeting(0, 3, &address, &Admission::Loopback), LIMIT);
            all_strangers_are_there.wait();
            gather_and_leave(connection.map(|connection| connection.expect("more than one rank")));
        });
        let mut strangers = Vec::new();
        while strangers.len() < 200 {
            let Ok(mut stream) = TcpStream::connect(&address) else { continue };
            // Some say nothing, some are not ours, some look like ours and go on too long.
            let garbage: &[u8] = match strangers.len() % 4 {
                0 => b"",
                1 => b"GET / HTTP/1.0\r\n\r\n",
                2 => b"\xefefarun\n",
                _ => &[0xef; 2000],
            };
            let _ = stream.write_all(garbage);
            strangers.push(stream);
        }
        assert!(strangers.len() > 2 * MAX_HALF_OPEN);
        all_strangers_are_there.wait();
        for rank in 1..3 {
            let address = &address;
            scope.spawn(move || {
                let connection = connect(&meeting(rank, 3, address, &Admission::Loopback), LIMIT);
                gather_and_leave(connection.map(|connection| connection.expect("more than one rank")));
            });
        }
        first.join().expect("no panic");
    });
}

#[test]
fn connections_that_say_nothing_are_few_and_dropped_after_a_while() {
    let address = free_address();
    let _rank_0 = connect(&meeting(0, 2, &address, &Admission::Loopback), LIMIT).expect("joined");
    let excess = 8;
    let mut idle: Vec<_> =
        (0..MAX_HALF_OPEN + excess).map(|_| TcpStream::connect(&address).expect("connected")).collect();
    let ends_within = |stream: &mut TcpStream, limit: Duration| {
        stream.set_read_timeout(Some(limit)).expect("a timeout");
        // A reset is an end too; only a timeout is none.
        !matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let newest = idle.split_off(MAX_HALF_OPEN);
    for mut stream in newest {
        assert!(
            ends_within(&mut stream, Duration::from_secs(1)),
            "beyond the limit they are dropped at once"
        );
    }
    for mut stream in idle {
        assert!(ends_within(&mut stream, Duration::from_secs(10)), "within it they have two seconds");
    }
}

#[test]
fn a_second_process_with_the_same_rank_is_refused() {
    let address = free_address();
    let _first = connect(&meeting(0, 3, &address, &Admission::Loopback), LIMIT).expect("joined");
    let _second = connect(&meeting(1, 3, &address, &Admission::Loopback), LIMIT).expect("joined");
    let error = connect(&meeting(1, 3, &address, &Admission::Loopback), Duration::from_millis(300))
        .expect_err("there is one already");
    assert!(error.to_string().contains("has a link already"), "{error}");
}

#[test]
fn ranks_that_disagree_about_the_world_size_are_told() {
    let address = free_address();
    let _first = connect(&meeting(0, 3, &address, &Admission::Loopback), LIMIT).expect("joined");
    let error =
        connect(&meeting(1, 2, &address, &Admission::Loopback), LIMIT).expect_err("refused").to_string();
    assert!(error.contains("it takes the world size to be 2, rank 0 to be 3"), "{error}");
}

#[test]
fn a_rank_that_ends_without_goodbye_is_lost_to_the_others() {
    let mut ranks = connect_threads(3, LIMIT).expect("connected");
    drop(ranks.remove(1));
    for rank in &mut ranks {
        let error = rank.barrier("all", LIMIT).expect_err("rank 1 is gone");
        assert!(matches!(error, BootstrapError::RankLost { rank: Rank(1), .. }), "{error}");
        assert!(rank.check_events().is_err(), "the error stays");
    }
}

#[test]
fn a_rank_that_said_goodbye_is_not_lost() {
    let mut ranks = connect_threads(3, LIMIT).expect("connected");
    let mut leaving = ranks.remove(1);
    leaving.leave();
    drop(leaving);
    let both = Participants::Ranks(vec![Rank(0), Rank(2)]);
    let mut others = ranks.into_iter().map(|mut rank| {
        let both = both.clone();
        std::thread::spawn(move || rank.allgather("both", both, Vec::new(), LIMIT).map(|all| all.len()))
    });
    let threads: Vec<_> = others.by_ref().collect();
    for thread in threads {
        assert_eq!(thread.join().expect("no panic").expect("nobody is lost"), 2);
    }
}

#[test]
fn an_abort_reaches_everybody_with_its_reason() {
    let mut ranks = connect_threads(3, LIMIT).expect("connected");
    ranks[2].abort(7, "the input is empty");
    for rank in &mut ranks[..2] {
        let error = rank.barrier("all", LIMIT).expect_err("aborted").to_string();
        assert_eq!(error, "rank 2 ended the job: the input is empty");
    }
}

#[test]
fn questions_that_nobody_answers_come_back() {
    let mut ranks = connect_threads(2, LIMIT).expect("connected");
    let answer = ranks[0].request(Target::Head, b"what?".to_vec(), LIMIT).expect("an answer");
    assert_eq!(answer, Err("the meeting point does not know this question".to_owned()));
}

#[test]
fn ranks_that_wait_say_how_far_they_have_come_and_who_has_left_does_not() {
    let mut ranks = connect_threads(4, LIMIT).expect("connected");
    ranks[2].begin(182, 7);
    ranks[3].begin(183, 8);
    ranks[1].leave();
    drop(ranks.remove(1));
    let [asker, waiting @ ..] = &mut ranks[..] else { unreachable!("three are left") };
    let is_answered = std::sync::atomic::AtomicBool::new(false);
    let positions = std::thread::scope(|scope| {
        for rank in waiting {
            let is_answered = &is_answered;
            scope.spawn(move || {
                while !is_answered.load(std::sync::atomic::Ordering::Relaxed) {
                    rank.check_events().expect("nobody is lost");
                    rank.sleep(Duration::from_millis(10));
                }
            });
        }
        let positions = asker.positions(4, LIMIT);
        is_answered.store(true, std::sync::atomic::Ordering::Relaxed);
        positions
    });
    let at = |rank, begun, signature| (Rank(rank), Some(Position { begun, signature }));
    assert_eq!(positions, [at(0, 0, 0), at(2, 183, 7), at(3, 184, 8)]);
}

#[test]
fn worlds_of_one_process_share_the_agents_socket() {
    let (mine, agents) = UnixStream::pair().expect("a pair");
    let doors = Doors { listener: None, inside: vec![(Rank(0), agents)] };
    let agent = Server::start(1, LinkKey::well_known(), doors, LIMIT).expect("started");
    let identity = Identity::Agent { rank: Rank(0), world_size: 1, fd: mine.into_raw_fd() };
    let mut first = connect(&identity, LIMIT).expect("joined").expect("a connection");
    let mut second = connect(&identity, LIMIT).expect("joined").expect("a connection");
    std::thread::scope(|scope| {
        for world in [&mut first, &mut second] {
            scope.spawn(move || {
                for _ in 0..50 {
                    world.barrier("same", LIMIT).expect("alone");
                }
            });
        }
    });
    first.leave();
    second.barrier("after the other left", LIMIT).expect("still linked");
    second.leave();
    drop((first, second));
    let mut third = connect(&identity, LIMIT).expect("joined").expect("a connection");
    third.barrier("after all others", LIMIT).expect("still linked");
    drop(agent);
}

#[test]
fn the_end_of_the_agent_is_an_error() {
    let (mine, agents) = UnixStream::pair().expect("a pair");
    let doors = Doors { listener: None, inside: vec![(Rank(0), agents)] };
    let agent = Server::start(2, LinkKey::well_known(), doors, LIMIT).expect("started");
    let identity = Identity::Agent { rank: Rank(0), world_size: 2, fd: mine.into_raw_fd() };
    let mut connection = connect(&identity, LIMIT).expect("joined").expect("a connection");
    connection.check_events().expect("all is well");
    drop(agent);
    let error = connection.barrier("all", LIMIT).expect_err("the agent is gone").to_string();
    assert_eq!(error, "the agent of this node is gone: the other end closed the connection");
}

#[test]
fn a_descriptor_that_is_no_agent_is_refused_and_left_alone() {
    let file = tempfile::tempfile().expect("a file");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for fd in [1, 100_000, std::os::fd::AsRawFd::as_raw_fd(&file), std::os::fd::AsRawFd::as_raw_fd(&udp)] {
        let identity = Identity::Agent { rank: Rank(0), world_size: 2, fd };
        let error = connect(&identity, LIMIT).expect_err("refused").to_string();
        assert!(error.contains(&format!("EFARUN_AGENT_FD={fd} is not the socket")), "{error}");
    }
    file.metadata().expect("still open");
}
