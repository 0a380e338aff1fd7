use std::io;
use std::time::Duration;

use super::*;
use crate::cli::{Command, parse};
use crate::job::{Export, JobSpec};

/// Parses a line where these variables are set and the user's file has this text.
fn with(line: &str, env: &[(&str, &str)], file: &str) -> Result<Command, CliExit> {
    let home = ("HOME", "/home/u");
    let env: Vec<(OsString, OsString)> =
        env.iter().chain([&home]).map(|(name, value)| (name.into(), value.into())).collect();
    let read = |path: &Path| match path.to_str() {
        Some("/home/u/.config/efarun/config.toml") if !file.is_empty() => Ok(file.as_bytes().to_vec()),
        Some("/etc/efarun/config.toml") => Ok(b"grace = 9\ntag-output = true\n".to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let around = Surroundings { env: &env, read: &read };
    parse(line.split_whitespace().map(OsString::from), around)
}

fn job(line: &str, env: &[(&str, &str)], file: &str) -> JobSpec {
    match with(line, env, file) {
        Ok(Command::Run(job)) => *job,
        other => panic!("{other:?}"),
    }
}

fn refusal(line: &str, env: &[(&str, &str)], file: &str) -> String {
    with(line, env, file).unwrap_err().to_string()
}

#[test]
fn the_line_wins_over_variables_they_over_the_users_file_and_that_over_the_machines() {
    let grace = |line: &str, env: &[(&str, &str)], file: &str| job(line, env, file).grace;
    let env = [("EFARUN_GRACE", "7")];
    assert_eq!(grace("--grace 6 p", &env, "grace = 8"), Duration::from_secs(6));
    assert_eq!(grace("p", &env, "grace = 8"), Duration::from_secs(7));
    assert_eq!(grace("p", &[], "grace = 8"), Duration::from_secs(8));
    assert_eq!(grace("p", &[], "timeout = 1.5"), Duration::from_secs(9));
    assert_eq!(job("p", &[], "timeout = 1.5").timeout, Some(Duration::from_millis(1500)));
}

#[test]
fn switches_are_set_and_unset() {
    assert!(job("p", &[], "").output.tag, "the machine's file sets it");
    assert!(!job("p", &[], "tag-output = false").output.tag);
    assert!(!job("p", &[("EFARUN_TAG_OUTPUT", "0")], "tag_output = true").output.tag);
    assert!(job("p", &[("EFARUN_FOLD_OUTPUT", "true")], "").output.fold.is_some());
}

#[test]
fn lists_go_before_what_the_line_says_itself() {
    let exports = |line: &str| job(line, &[], "export = [\"A=file\", \"B\"]").apps[0].exports.clone();
    let (a_line, a_file) = (Export::Set("A".into(), "line".into()), Export::Set("A".into(), "file".into()));
    let exports = exports("-x A=line p");
    assert_eq!((exports.last(), exports.contains(&a_file)), (Some(&a_line), true));
}

#[test]
fn hosts_of_the_line_leave_those_of_defaults_aside_and_a_default_hostfile_is_named() {
    let env = [("EFARUN_HOSTFILE", "/h")];
    assert_eq!(job("-H a p", &env, "").hostfile, None);
    let of_default = job("p", &env, "");
    assert_eq!(of_default.hostfile, Some("/h".into()));
    assert_eq!(of_default.notes, ["the hosts are those of /h, which EFARUN_HOSTFILE names"]);
    assert_eq!(job("--hostfile x p", &[], "host = \"a,b\"").apps[0].host_list, Vec::<String>::new());
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    assert_eq!(
        refusal("p", &[("EFARUN_GRACE", "soon")], ""),
        "`EFARUN_GRACE soon`: it must be a number of seconds up to an hour, such as 5 or 0.5; 0 kills at once"
    );
    let file = "/home/u/.config/efarun/config.toml";
    assert_eq!(
        refusal("p", &[], "# mine\ngrase = 1\n"),
        format!("{file}:2: `grase` is no option: did you mean `grace`?")
    );
    assert!(refusal("p", &[], "\ngrace = [1]").starts_with(&format!("{file}:2: `grace` takes a text")));
    assert!(refusal("p", &[], "grace = ").starts_with(&format!("{file}:1: it is not TOML")), "{file}");
    assert!(refusal("p", &[], "json = \"maybe\"").contains("it must be true or false"));
    assert!(refusal("p", &[("EFARUN_CONFIG", "/none")], "").starts_with("/none: it cannot be read"));
}

#[test]
fn variables_of_other_parts_say_nothing_and_misspelled_ones_are_named() {
    let notes = |name: &str| job("p", &[(name, "1")], "").notes;
    assert_eq!(notes("EFARUN_PROVIDER"), Vec::<String>::new());
    assert_eq!(notes("EFARUN_TEST_MARK"), Vec::<String>::new());
    assert_eq!(notes("EFARUN_GRASE"), ["EFARUN_GRASE sets nothing: did you mean EFARUN_GRACE?"]);
    assert_eq!(job("p", &[("EFARUN_RANK", "0"), ("EFARUN_GRACE", "7")], "").grace, Duration::from_secs(9));
    assert_eq!(job("p", &[("EFARUN_CONFIG", "")], "grace = 8").grace, JobSpec::GRACE);
}

#[test]
fn config_shows_each_value_with_its_origin_and_hides_secrets() {
    let env = [("EFARUN_TIMEOUT", "60"), ("EFARUN_EXPORT", "API_TOKEN=abc")];
    let Ok(Command::Print(text)) = with("config", &env, "grace = 8") else { panic!("it is shown") };
    let row = |option: &str| {
        let row = text.lines().find(|line| line.split_whitespace().next() == Some(option));
        row.unwrap_or_else(|| panic!("no {option} in {text}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("--timeout"), ["--timeout", "60", "EFARUN_TIMEOUT"]);
    assert_eq!(row("--grace"), ["--grace", "8", "/home/u/.config/efarun/config.toml:1"]);
    assert_eq!(row("--start-timeout"), ["--start-timeout", "60", "default"]);
    assert_eq!(row("--hostfile"), ["--hostfile", "-", "default"]);
    assert_eq!(row("--export"), ["--export", "API_TOKEN=…", "EFARUN_EXPORT"]);
    assert!(refusal("config x", &[], "").contains("takes nothing"));
}
