use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};

use efarun_wire::facts::Topology;
use efarun_wire::{BuildId, env as wire};

use super::*;
use crate::job::Host;
use crate::mapping::{AppRequest, Request, place, slots_of};

#[test]
fn environment_of_two_p4d_nodes() {
    let mut job = Job::on(&["10.0.0.1", "10.0.0.2"]);
    job.head_env(&[
        ("PATH", "/usr/bin:/bin"),
        ("LD_LIBRARY_PATH", "/home/me/lib:/usr/local/cuda/lib64"),
        ("NCCL_DEBUG", "INFO"),
        ("HF_TOKEN", "hf_secret"),
        ("EDITOR", "vi"),
        ("HOME", "/home/head"),
        ("SLURM_PROCID", "3"),
        ("PMIX_RANK", "0"),
        ("OMPI_MCA_btl", "tcp,self"),
        ("OMPI_MCA_orte_hnp_uri", "1.0;tcp://192.0.2.2:1"),
    ]);
    job.export("GREETING=a b=c");
    for facts in &mut job.facts {
        *facts = p4d(facts);
    }
    insta::assert_snapshot!("two_p4d_nodes", job.make().unwrap().to_text());
}

#[test]
fn environment_of_one_plain_host_as_json() {
    let mut job = Job::on(&["localhost"]);
    job.head_env(&[
        ("PATH", "/bin"),
        ("API_KEY", "k"),
        ("MY_SETTING", "1"),
        ("PWD", "/tmp"),
        ("OMPI_COMM_WORLD_RANK", "9"),
    ]);
    job.only_this_machine = true;
    let json = job.make().unwrap().to_json();
    insta::assert_snapshot!("one_plain_host", serde_json::to_string_pretty(&json).unwrap());
}

#[test]
fn shared_environment_is_the_same_on_every_node_and_basics_are_the_nodes_own() {
    let mut job = Job::on(&["a", "b"]);
    job.head_env(&[("PATH", "/bin"), ("HOME", "/home/head")]);
    job.facts[0].env = pairs(&[("HOME", "/root"), ("TMPDIR", "/scratch/a"), ("SSH_CONNECTION", "x")]);
    job.facts[1].env = pairs(&[("TMPDIR", "/scratch/b"), ("FOO", "bar"), ("LC_ALL", "C")]);
    job.facts[1].home = "/home/b".to_owned();
    job.facts[0].library_dirs = vec!["/opt/amazon/efa/lib".to_owned()];
    let env = job.make().unwrap();
    let on = |node: u32, name: &str| value(&env.node_env(NodeId(node)), name);
    assert_eq!((on(0, "HOME"), on(1, "HOME")), (Some("/root".into()), Some("/home/b".into())));
    assert_eq!((on(0, "TMPDIR"), on(1, "TMPDIR")), (Some("/scratch/a".into()), Some("/scratch/b".into())));
    assert_eq!((on(0, "SSH_CONNECTION"), on(1, "FOO")), (None, None));
    assert_eq!((on(0, "LC_ALL"), on(1, "LC_ALL")), (None, Some("C".into())));
    assert_eq!(on(1, "LD_LIBRARY_PATH"), Some("/opt/amazon/efa/lib".into()));
    for variable in &env.shared {
        let name = String::from_utf8(variable.name.clone()).unwrap();
        assert_eq!(on(0, &name), on(1, &name), "{name}");
    }
}

#[test]
fn library_path_keeps_the_users_bytes_first_and_repeats_nothing() {
    let mut job = Job::on(&["a", "b"]);
    job.head_env(&[("LD_LIBRARY_PATH", ":/mine::/opt/amazon/efa/lib")]);
    job.facts[1].library_dirs = vec!["/opt/amazon/efa/lib".to_owned(), "/usr/local/cuda/lib64".to_owned()];
    let env = job.make().unwrap();
    assert_eq!(
        job_value(&env, "LD_LIBRARY_PATH").unwrap(),
        ":/mine::/opt/amazon/efa/lib:/usr/local/cuda/lib64"
    );
}

#[test]
fn exported_library_path_replaces_the_heads() {
    let mut job = Job::on(&["a"]);
    job.head_env(&[("LD_LIBRARY_PATH", "/heads")]);
    job.export("LD_LIBRARY_PATH=/wheel/lib");
    assert_eq!(job_value(&job.make().unwrap(), "LD_LIBRARY_PATH").unwrap(), "/wheel/lib");
}

#[test]
fn efa_is_chosen_only_where_every_node_has_it_and_the_user_did_not_choose() {
    let mut job = Job::on(&["a", "b"]);
    job.facts[0].efa_devices = vec!["efa_0".to_owned()];
    assert_eq!(job_value(&job.make().unwrap(), "FI_PROVIDER"), None);
    job.facts[1].efa_devices = vec!["efa_0".to_owned()];
    assert_eq!(job_value(&job.make().unwrap(), "FI_PROVIDER").unwrap(), "efa");
    job.head_env(&[("FI_PROVIDER", "tcp")]);
    assert_eq!(job_value(&job.make().unwrap(), "FI_PROVIDER").unwrap(), "tcp");
}

#[test]
fn fork_safety_is_asked_for_on_old_kernels_only() {
    let mut job = Job::on(&["a", "b"]);
    for facts in &mut job.facts {
        facts.efa_devices = vec!["efa_0".to_owned()];
    }
    assert_eq!(job_value(&job.make().unwrap(), "FI_EFA_FORK_SAFE"), None);
    job.facts[1].kernel = "5.10.227-219.884.amzn2.x86_64".to_owned();
    assert_eq!(job_value(&job.make().unwrap(), "FI_EFA_FORK_SAFE").unwrap(), "1");
    job.export("FI_EFA_USE_HUGE_PAGE=1");
    let env = job.make().unwrap();
    assert_eq!(job_value(&env, "FI_EFA_FORK_SAFE"), None);
    assert!(env.notes.iter().any(|note| note.contains("FI_EFA_FORK_SAFE")), "{:?}", env.notes);
}

#[test]
fn variables_that_abort_the_provider_are_refused_by_name_where_efa_is_used() {
    let fatal = [
        "FI_EFA_MTU_SIZE=8192",
        "FI_EFA_TX_IOV_LIMIT=4",
        "FI_EFA_RX_IOV_LIMIT=4",
        "FI_EFA_IFACE=",
        "FI_EFA_TX_MIN_CREDITS=0",
    ];
    for assignment in fatal {
        let mut job = Job::on(&["a"]);
        job.export(assignment);
        assert!(job.make().is_ok(), "{assignment} without EFA");
        job.facts[0].efa_devices = vec!["efa_0".to_owned()];
        let error = job.make().unwrap_err();
        let name = assignment.split('=').next().unwrap();
        assert!(matches!(&error, EnvError::AbortsEfa { variable, .. } if variable == name), "{error}");
        assert!(error.to_string().contains("by -x"), "{error}");
    }
    let mut job = Job::on(&["a"]);
    job.facts[0].efa_devices = vec!["efa_0".to_owned()];
    job.head_env(&[("FI_EFA_FORK_SAFE", "1"), ("FI_EFA_USE_HUGE_PAGE", "1")]);
    assert!(matches!(job.make(), Err(EnvError::AbortsEfa { .. })));
}

#[test]
fn libfabric_of_a_folder_that_nobody_looked_in_is_not_compared() {
    let mut job = Job::on(&["a", "b"]);
    for facts in &mut job.facts {
        *facts = p4d(facts);
    }
    job.facts[1].libfabrics[0].1 = "libfabric.so.1.21.0".to_owned();
    let names_libfabric =
        |job: &Job| job.make().unwrap().notes.iter().any(|note| note.contains("libfabric releases"));
    assert!(names_libfabric(&job));
    job.head_env(&[("LD_LIBRARY_PATH", "/my/own")]);
    assert!(!names_libfabric(&job), "it may be the same on both");
    job.head_env(&[("LD_LIBRARY_PATH", "/usr/lib64:/opt/amazon/efa/lib")]);
    assert!(names_libfabric(&job));
}

#[test]
fn every_rule_of_the_table_is_acted_on() {
    for known in variables::KNOWN {
        for name in known.names {
            for rule in known.rules {
                assert!(acts_on(name, rule), "{name}: {rule}");
            }
        }
    }
}

/// Whether a job that a rule is about sets, refuses or notes what the rule says, and one that it is not about does not.
fn acts_on(name: &str, rule: &variables::Rule) -> bool {
    use variables::{Rule, Situation, Value};
    let mut with = Job::on(&["a", "b"]);
    for facts in &mut with.facts {
        *facts = p4d(facts);
    }
    let Rule::Sets { value, when } = rule else {
        let (Rule::Refuses { value, .. } | Rule::Notes { value, .. }) = rule else {
            unreachable!("seen above")
        };
        let assignment = match value {
            Value::Any => "anything",
            Value::Empty => "",
            Value::On | Value::OnWith(_) => "yes",
            Value::Off => "no",
            Value::NotPositive => "0",
            Value::DeviceMissing => "rdmap16s27,rdmap7s7",
            Value::FewerThanLocalRanks => "1",
        };
        let without = with.make();
        with.export(&format!("{name}={assignment}"));
        if let Value::OnWith(other) = value {
            with.export(&format!("{other}=1"));
        }
        return match (rule, with.make(), without) {
            (Rule::Refuses { .. }, Err(EnvError::AbortsEfa { variable, .. }), Ok(_)) => variable == name,
            (Rule::Notes { text, .. }, Ok(with), Ok(without)) => {
                let notes =
                    |env: &JobEnv| env.notes.iter().any(|note| note.starts_with(name) && note.contains(text));
                notes(&with) && !notes(&without)
            }
            _ => false,
        };
    };
    let mut without = Job::on(&["a", "b"]);
    if *when == Situation::OldKernel {
        with.facts[1].kernel = "5.10.1".to_owned();
        without.facts[0] = p4d(&without.facts[0]);
    }
    job_value(&with.make().unwrap(), name).as_deref() == Some(value)
        && job_value(&without.make().unwrap(), name).is_none()
}

#[test]
fn exports_keep_their_bytes_and_win_over_the_head() {
    let mut job = Job::on(&["a"]);
    job.head_env(&[("NCCL_DEBUG", "INFO"), ("ODD", "x")]);
    job.inputs_env.push((b"RAW".to_vec(), b"\xff\n= ".to_vec()));
    job.spec.apps[0].exports.push(Export::Inherit("RAW".into()));
    job.export("NCCL_DEBUG=WARN");
    job.spec.apps[0].exports.push(Export::Inherit("MISSING".into()));
    job.spec.apps[0].exports.push(Export::Inherit("OD*".into()));
    let env = job.make().unwrap();
    let pairs = env.node_env(NodeId(0));
    assert!(pairs.contains(&(b"RAW".to_vec(), b"\xff\n= ".to_vec())));
    assert_eq!(job_value(&env, "NCCL_DEBUG").unwrap(), "WARN");
    assert_eq!(job_value(&env, "ODD").unwrap(), "x");
    assert_eq!(env.notes, ["-x MISSING: no such variable is set here, so none is passed"]);
}

#[test]
fn identity_of_a_rank_cannot_be_exported_but_the_meeting_point_can() {
    let mut job = Job::on(&["a"]);
    job.export("RANK=7");
    job.export("MASTER_ADDR=192.0.2.7");
    let env = job.make().unwrap();
    assert_eq!(value(&env.per_rank(Rank(1)), "RANK").unwrap(), "1");
    assert_eq!(job_value(&env, "MASTER_ADDR").unwrap(), "192.0.2.7");
    assert_eq!(job_value(&env, "MASTER_PORT").unwrap(), "29501");
    assert_eq!(env.notes, ["-x RANK: efarun sets RANK itself, for each rank; yours is not used"]);
}

#[test]
fn what_an_outer_job_told_this_process_about_itself_is_not_passed_on() {
    let mut job = Job::on(&["localhost"]);
    job.only_this_machine = true;
    let inner = job.make().unwrap();
    let by_efarun = inner.shared.iter().filter(|variable| matches!(variable.origin, Origin::Efarun(_)));
    let shared = by_efarun.map(|variable| variable.name.clone());
    // PROGRAM may have a setting of its own for these, which an outer efarun only sets by default.
    let identity: Vec<Vec<u8>> = shared
        .filter(|name| !name.starts_with(b"TORCH_NCCL_") && !name.starts_with(b"FI_"))
        .chain(inner.per_rank(Rank(0)).into_iter().map(|(name, _)| name))
        .chain([wire::EFARUN_AGENT_FD, wire::EFARUN_BOOTSTRAP].map(Into::into))
        .collect();
    assert!(identity.contains(&wire::EFARUN_NODE_ADDRESS.into()) && identity.len() > 25, "{identity:?}");
    job.inputs_env = identity.into_iter().map(|name| (name, b"of the outer job".to_vec())).collect();
    let env = job.make().unwrap();
    let passed: Vec<String> = env
        .shared
        .iter()
        .filter(|variable| variable.value == b"of the outer job")
        .map(|variable| String::from_utf8_lossy(&variable.name).into_owned())
        .collect();
    assert_eq!(passed, [""; 0], "the outer job's variables reach the inner one's ranks");
}

#[test]
fn an_outer_launchers_pmi_reaches_no_rank() {
    let mut job = Job::on(&["a"]);
    job.only_this_machine = true;
    job.head_env(&[
        ("PMI_RANK", "0"),
        ("PMIX_RANK", "0"),
        ("OMPI_MCA_ess_base_vpid", "0"),
        ("PMI_FD", "7"),
        ("EFARUN_AGENT_FD", "9"),
    ]);
    let all: Vec<String> = names(&job.make().unwrap());
    let is_outer = |name: &&String| {
        let ours = ["PMI_SIZE", "PMI_RANK"].contains(&name.as_str());
        !ours && (name.starts_with("PMI") || name.starts_with("OMPI_MCA") || *name == "EFARUN_AGENT_FD")
    };
    assert_eq!(all.iter().find(is_outer), None);
    job.spec.apps[0].exports.push(Export::Set("PMIX_MCA_gds".into(), "hash".into()));
    assert!(names(&job.make().unwrap()).contains(&"PMIX_MCA_gds".to_owned()));
}

#[test]
fn argv_too_long_for_one_variable_is_left_out() {
    let mut job = Job::on(&["a"]);
    job.spec.apps[0].args = vec![OsString::from("x".repeat(200_000))];
    assert_eq!(job_value(&job.make().unwrap(), "OMPI_ARGV"), None);
    job.spec.apps[0].args = vec!["-b".into(), "8 K".into()];
    assert_eq!(job_value(&job.make().unwrap(), "OMPI_ARGV").unwrap(), "-b 8 K");
}

#[test]
fn differences_between_nodes_are_named() {
    let mut job = Job::on(&["a", "b", "c"]);
    for facts in &mut job.facts {
        *facts = p4d(facts);
        facts.memlock_bytes = Some(65_536);
    }
    job.facts[1].libc = "glibc 2.26".to_owned();
    job.facts[1].kernel = "4.14".to_owned();
    job.facts[2].efa_driver = Some("2.1.0g".to_owned());
    job.facts[2].efa_installer = Some("1.30.0".to_owned());
    job.facts[2].libfabrics[0].1 = "libfabric.so.1.21.0".to_owned();
    job.facts[2].efa_devices.truncate(1);
    job.facts[2].gpus.clear();
    job.facts[2].machine_id = job.facts[0].machine_id.clone();
    job.facts[0].env = pairs(&[("LD_LIBRARY_PATH", "/opt/site/lib")]);
    insta::assert_snapshot!("differences", job.make().unwrap().notes.join("\n"));
}

#[test]
fn prefix_comes_first_in_both_paths_on_every_node() {
    let mut job = Job::on(&["a", "b"]);
    job.spec.apps[0].prefix = Some("/opt/amazon/openmpi".into());
    job.head_env(&[("PATH", "/bin"), ("LD_LIBRARY_PATH", "/mine")]);
    job.export("LD_LIBRARY_PATH=/asked");
    job.facts[1].library_dirs = vec!["/opt/amazon/efa/lib".to_owned()];
    let env = job.make().unwrap();
    for node in 0..2 {
        let on_node = |name: &str| value(&env.node_env(NodeId(node)), name).unwrap();
        assert_eq!(on_node("PATH"), "/opt/amazon/openmpi/bin:/bin");
        assert_eq!(on_node("LD_LIBRARY_PATH"), "/opt/amazon/openmpi/lib:/asked:/opt/amazon/efa/lib");
    }
    job.spec.apps[0].exports.clear();
    job.head_env(&[]);
    let env = job.make().unwrap();
    assert_eq!(
        job_value(&env, "PATH").unwrap(),
        "/opt/amazon/openmpi/bin:/usr/bin",
        "the node's own is kept"
    );
}

#[test]
fn parameters_reach_ranks_and_an_export_of_the_same_name_wins() {
    let mut job = Job::on(&["a"]);
    job.head_env(&[("OMPI_MCA_btl", "heads")]);
    job.spec.parameters =
        vec![("OMPI_MCA_btl".into(), "tcp,self".into()), ("OMPI_MCA_pml".into(), "^cm".into())];
    job.export("OMPI_MCA_pml=ob1");
    let env = job.make().unwrap();
    assert_eq!(job_value(&env, "OMPI_MCA_btl").unwrap(), "tcp,self");
    assert_eq!(job_value(&env, "OMPI_MCA_pml").unwrap(), "ob1");
}

#[test]
fn several_programs_are_counted_as_open_mpi_counts_them() {
    let mut job = Job::on(&["a", "b"]);
    job.spec.apps.push(job.spec.apps[0].clone());
    let app = |rank_count| AppRequest { rank_count: Some(rank_count), hosts: None };
    let request = Request { apps: vec![app(1), app(3)], ..Request::default() };
    let hosts: Vec<_> = job.placement.nodes.iter().map(|node| slots_of(node.host.clone(), None)).collect();
    job.placement = place(&request, &hosts).unwrap();
    let env = job.make().unwrap();
    let on_a = |name: &str| job_value(&env, name).unwrap();
    assert_eq!((on_a("OMPI_NUM_APP_CTX"), on_a("OMPI_FIRST_RANKS")), ("2".to_owned(), "0 1".to_owned()));
    assert_eq!((on_a("OMPI_APP_CTX_NUM_PROCS"), on_a("WORLD_SIZE")), ("1 3".to_owned(), "4".to_owned()));
}

#[test]
fn nodes_of_two_architectures_are_refused() {
    let mut job = Job::on(&["a", "b"]);
    job.facts[1].architecture = "aarch64".to_owned();
    let error = job.make().unwrap_err();
    assert_eq!(
        error,
        EnvError::Architectures { nodes: vec!["x86_64 on a".to_owned(), "aarch64 on b".to_owned()] }
    );
}

/// A job of two ranks per host, and what its nodes have.
struct Job {
    spec: JobSpec,
    inputs_env: Vec<NameValue>,
    facts: Vec<NodeFacts>,
    placement: Placement,
    only_this_machine: bool,
}

impl Job {
    fn on(names: &[&str]) -> Job {
        let host = |name: &&str| Host {
            name: (*name).to_owned(),
            address: None,
            user: None,
            port: None,
            slots: Some(2),
            max_slots: None,
            places: Vec::new(),
            origin: "hosts:1".to_owned(),
        };
        let hosts: Vec<_> = names.iter().map(|name| slots_of(host(name), None)).collect();
        Job {
            spec: spec(),
            inputs_env: Vec::new(),
            facts: names.iter().map(|name| plain(name)).collect(),
            placement: place(&every_slot(), &hosts).unwrap(),
            only_this_machine: false,
        }
    }

    fn head_env(&mut self, variables: &[(&str, &str)]) {
        self.inputs_env = pairs(variables);
    }

    fn export(&mut self, assignment: &str) {
        let (name, value) = assignment.split_once('=').unwrap();
        self.spec.apps[0].exports.push(Export::Set(name.into(), value.into()));
    }

    fn make(&self) -> Result<JobEnv, EnvError> {
        job_env(&Inputs {
            spec: &self.spec,
            app: &self.spec.apps[0],
            head_env: &self.inputs_env,
            facts: &self.facts,
            placement: &self.placement,
            job: JobId([0xab; 8]),
            addresses: &ADDRESSES,
            master_port: Some(29501),
            only_this_machine: self.only_this_machine,
        })
    }
}

fn spec() -> JobSpec {
    let app = App {
        program: "./train".into(),
        args: ["--epochs", "3"].map(OsString::from).to_vec(),
        ..App::default()
    };
    JobSpec { apps: vec![app], ..JobSpec::default() }
}

fn every_slot() -> Request {
    Request { apps: vec![AppRequest::default()], ..Request::default() }
}

fn plain(name: &str) -> NodeFacts {
    NodeFacts {
        build: BuildId([0; 16]),
        hostname: name.to_owned(),
        machine_id: format!("machine of {name}"),
        namespaces: (1, 1),
        architecture: "x86_64".to_owned(),
        libc: "glibc 2.36".to_owned(),
        kernel: "6.1.0-28-amd64".to_owned(),
        allowed_cpus: (0..4).collect(),
        cores: 2,
        gpus: Vec::new(),
        efa_devices: Vec::new(),
        efa_driver: None,
        topology: Topology::default(),
        library_dirs: Vec::new(),
        libfabrics: vec![("/usr/lib/x86_64-linux-gnu".to_owned(), "libfabric.so.1.17.0".to_owned())],
        efa_installer: None,
        free_port: None,
        home: "/root".to_owned(),
        memlock_bytes: None,
        open_files: 1024,
        ssh_client: None,
        ssh_server: None,
        agent_pid: 100,
        keeper_pid: 101,
        unix_time_ms: 0,
        env: pairs(&[("HOME", "/root"), ("USER", "root"), ("PATH", "/usr/bin")]),
    }
}

fn p4d(facts: &NodeFacts) -> NodeFacts {
    NodeFacts {
        gpus: (0..8).map(|gpu| format!("0000:{:02x}:1c.0", 0x10 + gpu)).collect(),
        efa_devices: ["rdmap16s27", "rdmap32s27", "rdmap144s27", "rdmap160s27"].map(str::to_owned).to_vec(),
        efa_driver: Some("2.13.0g".to_owned()),
        library_dirs: ["/opt/amazon/efa/lib", "/opt/amazon/ofi-nccl/lib", "/usr/local/cuda/lib64"]
            .map(str::to_owned)
            .to_vec(),
        libfabrics: vec![("/opt/amazon/efa/lib".to_owned(), "libfabric.so.1.29.1".to_owned())],
        efa_installer: Some("1.38.0".to_owned()),
        ..facts.clone()
    }
}

fn pairs(variables: &[(&str, &str)]) -> Vec<NameValue> {
    variables.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn value(variables: &[NameValue], name: &str) -> Option<String> {
    let found = variables.iter().find(|(candidate, _)| candidate == name.as_bytes());
    found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
}

fn job_value(env: &JobEnv, name: &str) -> Option<String> {
    value(&env.node_env(NodeId(0)), name)
}

fn names(env: &JobEnv) -> Vec<String> {
    let all = env.node_env(NodeId(0)).into_iter().chain(env.per_rank(Rank(0)));
    all.map(|(name, _)| String::from_utf8(name).unwrap()).collect()
}

/// Where the two nodes of these tests are reached.
const ADDRESSES: [Option<IpAddr>; 2] =
    [Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))), Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)))];
