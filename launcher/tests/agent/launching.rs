//! How ranks start, and how their ends are told.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use efarun_wire::message::{HeadMessage, RankStatus};
use efarun_wire::{BuildId, Rank};

use crate::head::{Head, Seen, first_word, order};

#[tokio::test]
async fn ranks_run_and_their_codes_and_output_are_told() {
    let head = Head::start().await;
    head.launch(3, "echo out $EFARUN_RANK; echo err $EFARUN_RANK >&2; exit $EFARUN_RANK");
    let seen = head.finish(3).await;
    for rank in 0..3 {
        assert_eq!(seen.text(rank), format!("out {rank}\n"));
        assert_eq!(seen.errors(rank), format!("err {rank}\n"));
        assert_eq!(seen.status(rank), RankStatus::Code(rank as i32));
        assert!(!seen.exits[&Rank(rank)].ended_by_launcher);
    }
    assert_eq!((seen.reaped, seen.streams_ended), (Some((3, 0)), 6));
}

#[tokio::test]
async fn rank_killed_by_signal_reports_the_signal() {
    let head = Head::start().await;
    // 40 is a real-time signal.
    head.launch(2, "[ $EFARUN_RANK = 0 ] && kill -KILL $$; kill -40 $$");
    let seen = head.finish(2).await;
    assert_eq!(seen.status(0), RankStatus::Signal { number: 9, core: false });
    assert!(matches!(seen.status(1), RankStatus::Signal { number: 40, .. }));
}

#[tokio::test]
async fn a_rank_has_the_ordered_environment_and_descriptors_and_nothing_else() {
    let head = Head::start().await;
    let script = "tr '\\0' '\\n' </proc/$$/environ | cut -d= -f1; exec ls /proc/self/fd";
    let mut plan = head.plan(1, script);
    plan.apps[0].env.push((b"WITH_BYTES".to_vec(), b"\xff \n=".to_vec()));
    head.link.send(&HeadMessage::Launch(Box::new(plan)));
    let text = head.finish(1).await.text(0);
    // Number 5 is the folder that `ls` reads.
    let names =
        text.strip_suffix("0\n1\n2\n3\n4\n5\n").unwrap_or_else(|| panic!("other descriptors: {text}"));
    let mut names: Vec<&str> = names.lines().filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "EFARUN_AGENT_FD",
            "EFARUN_JOB_ID",
            "EFARUN_RANK",
            "PATH",
            "PMI_FD",
            "TORCHELASTIC_ERROR_FILE",
            "WITH_BYTES"
        ]
    );
}

#[tokio::test]
async fn a_rank_has_default_signals_and_leads_its_group() {
    let head = Head::start().await;
    head.launch(1, "grep -E 'Sig(Blk|Ign)' /proc/$$/status | cut -f2; cut -d' ' -f5 /proc/$$/stat; echo $$");
    let text = head.finish(1).await.text(0);
    let lines: Vec<&str> = text.lines().collect();
    // posix_spawn of glibc ignores its own two signals in each child, and a program of glibc takes them back.
    let glibc_own = 0x1_8000_0000;
    for mask in &lines[..2] {
        assert_eq!(u64::from_str_radix(mask, 16).unwrap() & !glibc_own, 0, "{text}");
    }
    assert_eq!(lines[2], lines[3]);
}

async fn failed_start(program: &str, wdir: &str) -> (String, String, i32) {
    let head = Head::start().await;
    let mut plan = head.plan(1, "");
    (plan.apps[0].program, plan.apps[0].wdir) = (program.into(), wdir.into());
    head.link.send(&HeadMessage::Launch(Box::new(plan)));
    let Seen { spawn_failures, exits, reaped, .. } = head.finish(1).await;
    assert!(exits.is_empty(), "a rank that did not start does not end");
    assert_eq!(reaped, Some((0, 0)));
    spawn_failures[&Rank(0)].clone()
}

fn failure(call: &str, subject: &str, errno: i32) -> (String, String, i32) {
    (call.to_owned(), subject.to_owned(), errno)
}

#[tokio::test]
async fn a_program_that_is_nowhere_in_path_is_named() {
    let (call, subject, errno) = failed_start("no-such-program", "/").await;
    assert_eq!((call.as_str(), errno), ("execve", libc::ENOENT));
    assert!(subject.starts_with("no-such-program (in no folder of PATH: /"), "{subject}");
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_told_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain", "echo", 0o644);
    let subject = format!("{plain} (not executable, its mode is 644)");
    assert_eq!(failed_start(&plain, "/").await, failure("execve", &subject, libc::EACCES));
    let foreign = file("foreign", "\x7fELF\x01\x02\x03", 0o755);
    let described = format!("{foreign} (neither a program of Linux nor a script with a `#!` line)");
    assert_eq!(failed_start(&foreign, "/").await, failure("execve", &described, libc::ENOEXEC));
    let subject_of_plain = subject;
    let script = file("script", "#!/no/such/shell -e\n", 0o755);
    let subject = format!("{script} (a script for /no/such/shell, which is not there)");
    assert_eq!(failed_start(&script, "/").await, failure("execve", &subject, libc::ENOENT));
    let relative = failed_start("./plain", folder.path().to_str().unwrap()).await;
    assert_eq!(relative, failure("execve", &subject_of_plain, libc::EACCES));
}

#[tokio::test]
async fn a_missing_folder_that_was_asked_for_is_an_error() {
    assert_eq!(
        failed_start("true", "/no/such/folder").await,
        failure("chdir", "/no/such/folder", libc::ENOENT)
    );
}

#[tokio::test]
async fn a_missing_folder_that_nobody_asked_for_is_noted_once() {
    let head = Head::start().await;
    let home = tempfile::tempdir().unwrap();
    let mut plan = head.plan(2, "pwd");
    (plan.apps[0].wdir, plan.apps[0].wdir_required) = (b"/no/such/folder".to_vec(), false);
    plan.apps[0].env.push((b"HOME".to_vec(), home.path().to_str().unwrap().into()));
    head.link.send(&HeadMessage::Launch(Box::new(plan)));
    let seen = head.finish(2).await;
    assert_eq!(seen.text(1).trim(), home.path().to_str().unwrap());
    assert_eq!(seen.notes.len(), 1, "{:?}", seen.notes);
    assert!(seen.notes[0].contains("/no/such/folder"), "{:?}", seen.notes);
}

#[tokio::test]
async fn an_agent_refuses_a_head_of_another_build() {
    let mut order = order();
    order.build = BuildId([1; 16]);
    let (word, status) = first_word(&order).await;
    let text = format!("{word:?}");
    assert!(text.contains("Failed") && text.contains("0101"), "{text}");
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn facts_are_of_this_machine() {
    let head = Head::start().await;
    let facts = &head.facts;
    assert_eq!(facts.build, head.order.build);
    assert!(facts.keeper_pid > 1 && facts.agent_pid > 1);
    assert_eq!(facts.architecture, std::env::consts::ARCH);
    assert!(facts.env.iter().any(|(name, _)| name == b"PATH"));
    head.goodbye().await;
}

#[tokio::test]
async fn ranks_tell_where_they_are_with_what_their_children_wait_for() {
    let mut head = Head::start().await;
    head.launch(2, "echo ready; sleep 1000; :");
    head.until("both are ready", |seen| seen.text(0) == "ready\n" && seen.text(1) == "ready\n").await;
    head.until_running("sleep 1000", 2).await;
    // What a rank writes may be here before its start is told, and only those that have started are asked.
    head.until_spawned(2).await;
    head.link.send(&HeadMessage::CollectStacks);
    head.until("both tell", |seen| seen.stacks.len() == 2).await;
    let told = &head.seen.stacks[&Rank(1)];
    assert!(told.contains("`sh -c echo ready; sleep 1000; :`") && told.contains("`sleep 1000`"), "{told}");
    assert!(told.contains("nanosleep"), "{told}");
    head.end(Duration::ZERO).await;
    head.goodbye().await;
}
