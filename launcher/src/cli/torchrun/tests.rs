//! torchrun's lines as jobs: what no rank is needed to see.

use std::io;

use super::*;

fn parse_with(line: &str, env: &[(&str, &str)], file: &str) -> Result<JobSpec, CliExit> {
    let env: Vec<(OsString, OsString)> =
        env.iter().chain([&("HOME", "/home/u")]).map(|(name, value)| (name.into(), value.into())).collect();
    let read = |path: &Path| match path.to_str() {
        Some("/home/u/.config/efarun/config.toml") => Ok(file.as_bytes().to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    match parse(line.split_whitespace().map(OsString::from), Surroundings { env: &env, read: &read })? {
        Command::Run(job) => Ok(*job),
        Command::Print(text) => panic!("{text}"),
    }
}

fn job(line: &str, env: &[(&str, &str)], file: &str) -> JobSpec {
    parse_with(line, env, file).unwrap()
}

#[test]
fn defaults_of_the_users_own_hold_for_torchruns_lines_too() {
    let file = "grace = 8\ntag-output = true\nexport = [\"A=file\"]\nnp = 4\n";
    let read = job("-x A=line train.py", &[("EFARUN_TIMEOUT", "90")], file);
    assert_eq!((read.grace, read.timeout), (Duration::from_secs(8), Some(Duration::from_secs(90))));
    assert!(read.output.tag);
    assert_eq!(read.apps[0].exports.len(), 2);
    assert_eq!(read.apps[0].rank_count, None, "torchrun says otherwise how many ranks there are");
    assert_eq!(job("--grace 6 train.py", &[], file).grace, Duration::from_secs(6));
    let refusal = parse_with("train.py", &[], "grace = \"soon\"").unwrap_err().to_string();
    assert!(refusal.contains("config.toml:1"), "{refusal}");
}

#[test]
fn hosts_of_the_users_own_are_for_several_nodes_only() {
    let file = "hostfile = \"/etc/hosts-of-mine\"\n";
    assert_eq!(job("--standalone train.py", &[], file).hostfile, None);
    let several = job("--nnodes 2 train.py", &[], file);
    assert_eq!(several.hostfile.as_deref(), Some(Path::new("/etc/hosts-of-mine")));
    assert!(several.notes.iter().any(|note| note.contains("config.toml:1 names")), "{:?}", several.notes);
    let named = job("--nnodes 2 -H a,b train.py", &[], file);
    assert_eq!((named.hostfile, named.apps[0].host_list.len()), (None, 2));
    let by_hand = job("--nnodes 2 --node-rank 0 --master-addr 10.0.0.1 train.py", &[], file);
    assert!(by_hand.hostfile.is_none() && by_hand.is_by_hand());
}

#[test]
fn numa_binding_is_the_binding_to_a_gpus_cores() {
    use crate::binding::BindTo;
    assert_eq!(job("--numa-binding node train.py", &[], "").bind_to, BindTo::Gpu);
    assert_eq!(job("train.py", &[], "").bind_to, BindTo::None);
}

#[test]
fn hosts_are_waited_for_where_there_are_any_and_by_hand_it_is_said_what_does_that() {
    let hosts = job("--nnodes 2 -H a,b --wait-for-hosts 90 train.py", &[], "");
    assert_eq!((hosts.wait_for_hosts, hosts.notes.len()), (Some(Duration::from_secs(90)), 0));
    let by_hand = job("--nnodes 2 --node-rank 0 --master-addr a --wait-for-hosts 90 train.py", &[], "");
    assert!(by_hand.notes.iter().any(|note| note.contains("--start-timeout")), "{:?}", by_hand.notes);
}
