//! Servers of several nodes, joined by a head that is as simple as can be, and ranks that speak for themselves.

use std::collections::{BTreeMap, VecDeque};

use efarun_wire::message::{GatherKey, JobMap, MappedNode, OobDown, OobUp, SpawnedWorld, Target};
use efarun_wire::oob::MAX_OPEN_REQUESTS;
use efarun_wire::{JobId, NodeId, Rank};

use super::server::{Action, Server};

/// A job whose ranks are given to nodes in blocks.
struct Job {
    servers: Vec<Server>,
    node_of: BTreeMap<Rank, usize>,
    first_size: u32,
    /// What ranks were sent and have not looked at.
    sent: BTreeMap<Rank, Vec<u8>>,
    gathering: BTreeMap<GatherKey, BTreeMap<Rank, Vec<u8>>>,
    /// How many messages went from a server to the head.
    up: usize,
    /// What came of it that is not an answer.
    outcomes: Vec<Action>,
}

impl Job {
    fn new(ranks_per_node: &[u32]) -> Job {
        let mut next = 0;
        let mut node = |count: &u32| {
            let ranks = (next..next + count).map(Rank).collect();
            next += count;
            MappedNode { host: "h".to_owned(), ranks }
        };
        let nodes: Vec<MappedNode> = ranks_per_node.iter().map(&mut node).collect();
        let map = JobMap { nodes, universe_size: 16, ..JobMap::default() };
        let placed = map.nodes.iter().enumerate();
        let node_of =
            placed.flat_map(|(node, place)| place.ranks.iter().map(move |rank| (*rank, node))).collect();
        let server = |(node, place): (usize, &MappedNode)| {
            let ranks = place.ranks.iter().map(|rank| (*rank, rank.0 % 2));
            Server::new(JobId([7; 8]), NodeId(node as u32), map.clone(), ranks)
        };
        Job {
            servers: map.nodes.iter().enumerate().map(server).collect(),
            first_size: map.size(),
            node_of,
            sent: BTreeMap::new(),
            gathering: BTreeMap::new(),
            up: 0,
            outcomes: Vec::new(),
        }
    }

    fn say(&mut self, rank: u32, message: &str) {
        let node = self.node_of[&Rank(rank)];
        let actions = self.servers[node].receive(Rank(rank), message.as_bytes());
        self.act(node, actions);
    }

    /// Says something in PMI-2's form.
    fn say2(&mut self, rank: u32, message: &str) {
        self.say(rank, &format!("{:>6}{message}", message.len()));
    }

    /// What a rank was answered since it was last asked.
    fn heard(&mut self, rank: u32) -> String {
        String::from_utf8(self.sent.remove(&Rank(rank)).unwrap_or_default()).unwrap()
    }

    /// Says something and takes the answer.
    fn ask(&mut self, rank: u32, message: &str) -> String {
        self.say(rank, message);
        self.heard(rank)
    }

    fn ask2(&mut self, rank: u32, message: &str) -> String {
        self.say2(rank, message);
        self.heard(rank)
    }

    fn init(&mut self) {
        for rank in 0..self.node_of.len() as u32 {
            let answer = self.ask(rank, "cmd=init pmi_version=1 pmi_subversion=1\n");
            assert_eq!(answer, "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0\n");
        }
    }

    fn act(&mut self, node: usize, actions: Vec<Action>) {
        let mut queue: VecDeque<(usize, Action)> = actions.into_iter().map(|action| (node, action)).collect();
        while let Some((node, action)) = queue.pop_front() {
            let more: Vec<(usize, Action)> = match action {
                Action::Send(rank, bytes) => {
                    assert_eq!(self.node_of[&rank], node);
                    self.sent.entry(rank).or_default().extend(bytes);
                    continue;
                }
                Action::Up(OobUp::Gather { key, blobs }) => {
                    self.up += 1;
                    let gathering = self.gathering.entry(key.clone()).or_default();
                    gathering.extend(blobs);
                    if gathering.len() < key.participants.count(self.first_size) {
                        continue;
                    }
                    let blobs: Vec<_> = self.gathering.remove(&key).unwrap().into_iter().collect();
                    let servers = self.servers.iter_mut().enumerate();
                    let results = servers.map(|(node, server)| {
                        let down = OobDown::Gathered { key: key.clone(), blobs: blobs.clone() };
                        (node, server.hear(down).unwrap())
                    });
                    flatten(results.collect())
                }
                Action::Up(OobUp::Request { from, to, token, body }) => {
                    self.up += 1;
                    let Target::Node(asked) = to else { panic!("a server asks {to}") };
                    let down = OobDown::Request { from, to, token, body };
                    flatten(vec![(asked.index(), self.servers[asked.index()].hear(down).unwrap())])
                }
                Action::Up(OobUp::Reply { to, token, body }) => {
                    let Target::Node(asker) = to else { panic!("a server answers {to}") };
                    let down = OobDown::Reply { to, token, body };
                    flatten(vec![(asker.index(), self.servers[asker.index()].hear(down).unwrap())])
                }
                other => {
                    self.outcomes.push(other);
                    continue;
                }
            };
            queue.extend(more);
        }
    }
}

fn flatten(actions: Vec<(usize, Vec<Action>)>) -> Vec<(usize, Action)> {
    actions
        .into_iter()
        .flat_map(|(node, actions)| actions.into_iter().map(move |action| (node, action)))
        .collect()
}

const BARRIER: &str = "cmd=barrier_in\n";
const BARRIER_OUT: &str = "cmd=barrier_out rc=0\n";

#[test]
fn a_rank_is_told_about_its_job() {
    let mut job = Job::new(&[2, 2]);
    job.init();
    assert_eq!(
        job.ask(3, "cmd=get_maxes\n"),
        "cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024\n"
    );
    assert_eq!(job.ask(3, "cmd=get_appnum\n"), "cmd=appnum rc=0 appnum=1\n");
    assert_eq!(job.ask(3, "cmd=get_universe_size\n"), "cmd=universe_size rc=0 size=16\n");
    let name = job.ask(3, "cmd=get_my_kvsname\n");
    assert_eq!(name, "cmd=my_kvsname rc=0 kvsname=efarun-0707070707070707-0\n");
    assert_eq!(
        job.ask(3, "cmd=get kvsname=x key=PMI_process_mapping\n"),
        "cmd=get_result rc=0 msg=success value=(vector,(0,2,2))\n"
    );
    assert!(job.ask(3, "cmd=get kvsname=x key=PMI_hwloc_xmlfile\n").starts_with("cmd=get_result rc=-1 "));
    assert_eq!((job.up, job.outcomes.len()), (0, 0), "the node answers all of it");
}

#[test]
fn a_rank_that_initialises_again_goes_on_with_the_keys_that_there_are() {
    let mut job = Job::new(&[1, 1]);
    job.init();
    let name = job.ask(0, "cmd=get_my_kvsname\n");
    assert_eq!(job.ask(0, "cmd=put kvsname=x key=first value=1\n"), "cmd=put_result rc=0 msg=success\n");
    // As MPICH 5 does for every MPI session after the first.
    job.init();
    assert_eq!(job.ask(0, "cmd=get_my_kvsname\n"), name);
    assert_eq!(job.ask(0, "cmd=get kvsname=x key=first\n"), "cmd=get_result rc=0 msg=success value=1\n");
    assert!(job.outcomes.is_empty());
}

#[test]
fn what_is_put_before_a_barrier_is_known_everywhere_after_it_at_one_message_per_node() {
    let mut job = Job::new(&[3, 1]);
    job.init();
    for rank in 0..4 {
        let put = format!("cmd=put kvsname=x key=card-{rank} value=at:{rank}\\ ;\n");
        assert_eq!(job.ask(rank, &put), "cmd=put_result rc=0 msg=success\n");
    }
    for rank in 0..3 {
        assert_eq!(job.ask(rank, BARRIER), "");
    }
    assert_eq!(job.ask(3, BARRIER), BARRIER_OUT);
    assert_eq!(job.up, 2);
    for rank in 0..4 {
        for other in 0..4 {
            let answer = job.ask(rank, &format!("cmd=get kvsname=x key=card-{other}\n"));
            assert_eq!(
                answer.trim_start_matches(BARRIER_OUT),
                format!("cmd=get_result rc=0 msg=success value=at:{other}\\ ;\n")
            );
        }
    }
    assert_eq!(job.up, 2, "nothing had to be asked for");
}

#[test]
fn a_key_that_is_asked_for_before_a_barrier_is_found_on_another_node() {
    let mut job = Job::new(&[1, 1, 1]);
    job.init();
    job.say(0, "cmd=put kvsname=x key=a value=1\n");
    for rank in [1, 2] {
        let answer = job.ask(rank, "cmd=get kvsname=x key=a\n");
        assert_eq!(answer, "cmd=get_result rc=0 msg=success value=1\n");
    }
    assert!(job.ask(1, "cmd=get kvsname=x key=b\n").starts_with("cmd=get_result rc=-1 msg=key_not_found"));
}

#[test]
fn a_barrier_of_one_node_does_not_leave_it() {
    let mut job = Job::new(&[2]);
    job.init();
    job.say(0, BARRIER);
    assert_eq!(job.ask(1, BARRIER), BARRIER_OUT);
    let mut job = Job::new(&[2, 2]);
    job.init();
    job.say(2, "cmd=barrier_in group=NODE:3\n");
    assert_eq!(job.ask(3, "cmd=barrier_in group=NODE:3\n"), "cmd=barrier_out rc=0 tag=3\n");
    assert_eq!(job.up, 0);
}

#[test]
fn barriers_of_groups_run_beside_each_other_and_leave_keys_for_that_of_the_world() {
    let mut job = Job::new(&[2, 2]);
    job.init();
    job.say(0, "cmd=put kvsname=x key=a value=1\n");
    job.heard(0);
    job.say(0, "cmd=barrier_in group=0,2:1\n");
    job.say(0, "cmd=barrier_in group=2,0:2\n");
    assert_eq!(job.ask(2, "cmd=barrier_in group=2,0:2\n"), "cmd=barrier_out rc=0 tag=2\n");
    assert_eq!(job.heard(0), "cmd=barrier_out rc=0 tag=2\n");
    assert_eq!(job.ask(2, "cmd=get kvsname=x key=a\n"), "cmd=get_result rc=0 msg=success value=1\n");
    assert_eq!(job.ask(2, "cmd=barrier_in group=0,2:1\n"), "cmd=barrier_out rc=0 tag=1\n");
    for rank in 0..4 {
        job.say(rank, BARRIER);
    }
    let before = job.up;
    assert!(job.ask(3, "cmd=get kvsname=x key=a\n").ends_with("value=1\n"));
    assert_eq!(job.up, before);
}

#[test]
fn each_generation_has_keys_and_a_name_of_its_own() {
    let mut job = Job::new(&[1, 1]);
    job.init();
    job.say(0, "cmd=put kvsname=x key=a value=old\n");
    for rank in [0, 1] {
        job.say(rank, BARRIER);
        job.heard(rank);
        assert_eq!(job.ask(rank, "cmd=finalize\n").lines().last(), Some("cmd=finalize_ack rc=0"));
    }
    job.heard(0);
    // Rank 1 is not there yet.
    job.say(0, "cmd=init pmi_version=1 pmi_subversion=1\n");
    assert!(job.ask(0, "cmd=get_my_kvsname\n").ends_with("-1\n"));
    job.say(0, "cmd=put kvsname=x key=a value=new\n");
    job.say(1, "cmd=init pmi_version=1 pmi_subversion=1\n");
    job.say(0, BARRIER);
    job.say(1, BARRIER);
    job.heard(1);
    assert!(job.ask(1, "cmd=get kvsname=x key=a\n").ends_with("value=new\n"));
    assert_eq!(job.outcomes, []);
}

#[test]
fn more_keys_than_may_be_asked_for_at_a_time_are_all_answered() {
    let mut job = Job::new(&[8, 1]);
    job.init();
    job.say(8, "cmd=put kvsname=x key=a value=1\n");
    let get = "cmd=get kvsname=x key=a\n";
    let mut actions = Vec::new();
    for rank in 0..8 {
        actions.extend(job.servers[0].receive(Rank(rank), get.repeat(10).as_bytes()));
    }
    let is_request = |action: &&Action| matches!(action, Action::Up(OobUp::Request { .. }));
    assert!(actions.iter().filter(is_request).count() <= MAX_OPEN_REQUESTS);
    job.act(0, actions);
    for rank in 0..8 {
        assert_eq!(job.heard(rank), "cmd=get_result rc=0 msg=success value=1\n".repeat(10));
    }
}

#[test]
fn published_names_are_known_on_all_nodes() {
    let mut job = Job::new(&[1, 1]);
    job.init();
    assert_eq!(job.ask(1, "cmd=lookup_name service=s\n"), "cmd=lookup_result rc=-1 msg=service_not_found\n");
    assert_eq!(
        job.ask(1, "cmd=publish_name service=s port=tag#0$\n"),
        "cmd=publish_result rc=0 msg=success\n"
    );
    assert!(job.ask(0, "cmd=publish_name service=s port=other\n").contains("rc=-1 msg=published_already"));
    assert_eq!(job.ask(0, "cmd=lookup_name service=s\n"), "cmd=lookup_result rc=0 port=tag#0$\n");
    assert_eq!(job.ask(1, "cmd=unpublish_name service=s\n"), "cmd=unpublish_result rc=0 msg=success\n");
    assert!(job.ask(0, "cmd=unpublish_name service=s\n").contains("rc=-1"));
}

#[test]
fn a_rank_that_aborts_gives_its_code_and_its_words() {
    let mut job = Job::new(&[2]);
    job.init();
    job.say(1, "cmd=abort exitcode=7 message=no\\ more\n");
    let abort = Action::Up(OobUp::Abort { rank: Rank(1), code: 7, reason: "no more".to_owned() });
    assert_eq!(job.outcomes, [abort]);
}

#[test]
fn ends_are_judged_by_how_far_the_rank_was() {
    let ended = |job: &mut Job, rank: u32| {
        let node = job.node_of[&Rank(rank)];
        let actions = job.servers[node].ended_well(Rank(rank));
        job.act(node, actions);
    };
    let broke = |job: &Job| match &job.outcomes[..] {
        [Action::Broke { rank, how }, ..] => format!("{rank} {how}"),
        outcomes => format!("{outcomes:?}"),
    };
    let mut job = Job::new(&[3]);
    ended(&mut job, 0);
    assert_eq!(job.outcomes, [], "no rank uses PMI");
    job.say(1, "cmd=init pmi_version=1 pmi_subversion=1\n");
    job.say(1, BARRIER);
    assert_eq!(broke(&job), "0 ended with code 0 without MPI_Init, where rank 1 waits for it");

    let mut job = Job::new(&[1, 1]);
    job.init();
    job.say(0, "cmd=finalize\n");
    ended(&mut job, 0);
    assert_eq!(job.outcomes, []);
    ended(&mut job, 1);
    assert_eq!(broke(&job), "1 ended with code 0 after MPI_Init and without MPI_Finalize");
}

#[test]
fn what_is_no_pmi_ends_the_job_only_where_others_may_wait() {
    let mut job = Job::new(&[2]);
    job.say(0, "GET / HTTP/1.1\r\n");
    assert!(
        matches!(&job.outcomes[..], [Action::Note(Rank(0), _), Action::Close(Rank(0))]),
        "{:?}",
        job.outcomes
    );
    job.outcomes.clear();
    job.say(1, "cmd=init pmi_version=1 pmi_subversion=1\n");
    job.say(1, &"x".repeat(70_000));
    assert!(
        matches!(&job.outcomes[..], [Action::Broke { rank: Rank(1), how }, Action::Close(Rank(1))] if how.contains("more than 65536 bytes")),
        "{:?}",
        job.outcomes
    );
    job.say(1, BARRIER);
    assert_eq!(job.outcomes.len(), 2, "it is not listened to any more");
}

#[test]
fn a_flood_of_keys_is_refused_and_what_was_taken_stays() {
    let mut job = Job::new(&[1, 1]);
    job.init();
    let value = "v".repeat(1024);
    let puts =
        (0..2000).map(|number| job.ask(0, &format!("cmd=put kvsname=x key=k{number} value={value}\n")));
    let answers: Vec<String> = puts.collect();
    assert!(answers[0].contains("rc=0"));
    assert_eq!(answers[1999], "cmd=put_result rc=-1 msg=too_much_before_a_barrier\n");
    job.say(0, BARRIER);
    assert_eq!(job.ask(1, BARRIER), BARRIER_OUT);
    assert!(job.ask(1, "cmd=get kvsname=x key=k1000\n").ends_with(&format!("{value}\n")));
    assert!(job.ask(0, &format!("cmd=put kvsname=x key=k value={value}v\n")).contains("msg=value_too_long"));
}

#[test]
fn a_stall_within_a_message_is_told_from_a_pause_between_two() {
    let mut job = Job::new(&[1]);
    job.init();
    assert_eq!(job.servers[0].stopped_within_message(Rank(0)), None);
    job.say(0, "cmd=get_ma");
    let sent = job.servers[0].stopped_within_message(Rank(0)).unwrap();
    job.say(0, "x");
    assert_eq!(job.servers[0].stalled(Rank(0), sent, 10), [], "it went on");
    let sent = job.servers[0].stopped_within_message(Rank(0)).unwrap();
    let stalled = job.servers[0].stalled(Rank(0), sent, 10);
    assert!(matches!(&stalled[..], [Action::Broke { .. }, Action::Close(_)]), "{stalled:?}");
}

#[test]
fn pmi_2_is_spoken_from_init_to_finalise_and_again() {
    let mut job = Job::new(&[2, 1]);
    for generation in 0..2 {
        for rank in 0..3 {
            let answer = job.ask(rank, "cmd=init pmi_version=2 pmi_subversion=0\n");
            assert_eq!(answer, "cmd=response_to_init pmi_version=2 pmi_subversion=0 rc=0\n");
            let answer = job.ask2(rank, &format!("cmd=fullinit;pmijobid=x;pmirank={rank};threaded=FALSE;"));
            let expected =
                format!("rc=0;pmi-version=2;pmi-subversion=0;rank={rank};size=3;appnum={};", rank % 2);
            assert!(answer.contains(&expected), "{answer}");
        }
        assert!(
            job.ask2(0, "cmd=job-getid;").contains(&format!("jobid=efarun-0707070707070707-{generation};"))
        );
        assert!(
            job.ask2(2, "cmd=kvs-put;thrid=9;key=a;value=b c;")
                .contains("cmd=kvs-put-response;thrid=9;rc=0;")
        );
        for rank in 0..3 {
            assert_eq!(job.ask2(rank, "cmd=kvs-fence;").contains("kvs-fence-response"), rank == 2);
        }
        assert!(job.ask2(0, "cmd=kvs-get;jobid=x;srcid=-1;key=a;").ends_with("found=TRUE;value=b c;rc=0;"));
        assert!(
            job.ask2(1, "cmd=info-getjobattr;key=PMI_process_mapping;")
                .contains("value=(vector,(0,1,2),(1,1,1));")
        );
        assert!(job.ask2(1, "cmd=info-getjobattr;key=other;").ends_with("found=FALSE;rc=0;"));
        job.heard(1);
        assert_eq!(job.ask2(1, "cmd=info-getnodeattr;key=n;wait=TRUE;"), "", "it waits");
        assert!(job.ask2(2, "cmd=info-getnodeattr;key=n;wait=FALSE;").contains("found=FALSE"));
        assert!(job.ask2(0, "cmd=info-putnodeattr;key=n;value=v;").contains("rc=0"));
        assert!(job.heard(1).ends_with("found=TRUE;value=v;rc=0;"));
        for rank in 0..3 {
            assert!(job.ask2(rank, "cmd=finalize;").ends_with("cmd=finalize-response;rc=0;"));
        }
    }
    assert_eq!(job.outcomes, []);
}

#[test]
fn a_world_that_is_asked_for_has_numbers_names_and_keys_of_its_own() {
    let mut job = Job::new(&[1, 1]);
    job.init();
    // Two programs, in two messages; the first one's keys are for all.
    let part = |so_far: u32, keys: &str| {
        format!("mcmd=spawn\nnprocs=1\nexecname=child\ntotspawns=2\nspawnssofar={so_far}\n{keys}endcmd\n")
    };
    assert_eq!(job.ask(0, &part(1, "preput_num=1\npreput_key_0=PARENT\npreput_val_0=tag#0\n")), "");
    assert_eq!(job.outcomes, []);
    job.say(0, &part(2, ""));
    let Some(Action::Spawn(order)) = job.outcomes.pop() else { panic!("no order") };
    assert_eq!((order.by, order.programs.len()), (Rank(0), 2));
    assert_eq!(order.keys, [(b"PARENT".to_vec(), b"tag#0".to_vec())]);
    // Its ranks follow those that there are, one on each node.
    let node = |rank| MappedNode { host: "h".to_owned(), ranks: vec![Rank(rank)] };
    let nodes = vec![node(2), node(3)];
    let map = JobMap { world: 1, first_rank: Rank(2), nodes, universe_size: 16, app_sizes: vec![2] };
    for (node, server) in job.servers.iter_mut().enumerate() {
        let rank = Rank(2 + node as u32);
        server.admit(map.clone(), [(rank, 0)], &order.keys);
        job.node_of.insert(rank, node);
    }
    let outcome = Ok(SpawnedWorld { world: 1, size: 2 });
    let actions = job.servers[0].spawned(order.token, &outcome);
    job.act(0, actions);
    let answer = "cmd=spawn_result rc=0 jobid=efarun-0707070707070707-w1-0 errcodes=0,0\n";
    assert_eq!(job.heard(0), answer);
    // The children, the second in PMI-2.
    job.ask(2, "cmd=init pmi_version=1 pmi_subversion=1\n");
    job.ask(3, "cmd=init pmi_version=2 pmi_subversion=0\n");
    assert!(job.ask2(3, "cmd=fullinit;").contains("rank=1;size=2;"));
    assert!(job.ask(2, "cmd=get_my_kvsname\n").ends_with("-w1-0\n"));
    assert!(job.ask(2, "cmd=get kvsname=x key=PARENT\n").ends_with("value=tag#0\n"));
    assert!(job.ask(2, "cmd=get kvsname=x key=PMI_process_mapping\n").ends_with("value=(vector,(0,2,1))\n"));
    // Keys and barriers of one world are nothing to the other.
    job.ask(2, "cmd=put kvsname=x key=a value=child\n");
    job.ask(1, "cmd=put kvsname=x key=a value=parent\n");
    assert_eq!(job.ask(0, BARRIER), "");
    assert_eq!(job.ask(2, BARRIER), "");
    assert!(job.ask2(3, "cmd=kvs-fence;").contains("kvs-fence-response"));
    assert_eq!(job.heard(2), BARRIER_OUT);
    assert!(job.ask2(3, "cmd=kvs-get;key=a;").contains("value=child;"));
    assert_eq!(job.heard(0), "", "rank 1 has not come");
    assert_eq!(job.ask(1, BARRIER), BARRIER_OUT);
    job.heard(0);
    assert!(job.ask(0, "cmd=get kvsname=x key=a\n").ends_with("value=parent\n"));
    // What cannot be is an answer, and the rank goes on.
    job.say(1, &part(1, "").replace("totspawns=2", "totspawns=1"));
    let Some(Action::Spawn(order)) = job.outcomes.pop() else { panic!("no order") };
    let actions = job.servers[1].spawned(order.token, &Err("no slots".to_owned()));
    job.act(1, actions);
    assert_eq!(job.heard(1), "cmd=spawn_result rc=-1 errmsg=no_slots\n");
    assert_eq!(job.outcomes, []);
}

#[test]
fn a_flood_of_programs_ends_the_job_of_the_rank_that_asks() {
    let mut job = Job::new(&[1]);
    job.init();
    let part = "mcmd=spawn\nnprocs=1\nexecname=child\ntotspawns=64\nendcmd\n";
    (0..63).for_each(|_| job.say(0, part));
    assert_eq!(job.outcomes, []);
    job.say(0, &part.replace("totspawns=64", "totspawns=65"));
    assert!(
        matches!(&job.outcomes[..], [Action::Broke { how, .. }, Action::Close(_)] if how.contains("64 programs")),
        "{:?}",
        job.outcomes
    );
}

#[test]
fn what_is_not_served_is_named_once() {
    let mut job = Job::new(&[1, 1]);
    job.init();
    for _ in 0..3 {
        job.ask(0, "cmd=fly\n");
        job.ask(1, "cmd=fly\n");
    }
    for number in 0..100 {
        job.ask(0, &format!("cmd=fly{number}\n"));
    }
    let of_rank = |own: u32| {
        let is_its = |action: &&Action| matches!(action, Action::Note(rank, _) if *rank == Rank(own));
        job.outcomes.iter().filter(is_its).count()
    };
    assert_eq!((of_rank(0), of_rank(1)), (16, 1));
}

#[test]
fn a_rank_that_reads_no_answers_is_listened_to_no_longer() {
    let mut job = Job::new(&[1, 1]);
    job.init();
    let actions = job.servers[0].unread(Rank(0), 10);
    assert!(matches!(&actions[..], [Action::Broke { rank: Rank(0), how }, Action::Close(Rank(0))]
        if how.contains("read none of its answers for 10 s")));
    assert_eq!(job.servers[0].unread(Rank(0), 10), []);
}
