//! The dialogue with real shells on this machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::*;
use crate::spawn::{ChannelEnd, child};

const DEADLINE: Duration = Duration::from_secs(60);

/// A home folder, and an executable that answers what it is sent and says where it is.
struct Machine {
    folder: tempfile::TempDir,
    launcher: Launcher,
}

impl Machine {
    fn new() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("home")).unwrap();
        let launcher = executable(&folder, "cat");
        Machine { folder, launcher }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn installed(&self, launcher: &Launcher) -> PathBuf {
        self.home().join(format!(".cache/efarun/{}/efarun", launcher.build()))
    }

    /// The remote side, as sshd starts it: `shell -c COMMAND`.
    fn shell(&self, shell: &str, launcher: &Launcher) -> Command {
        let mut command = Command::new(shell);
        command.arg("-c").arg(launcher.remote_command());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.home());
        command
    }

    async fn talk(&self, command: Command) -> (Result<Installed, PushError>, child::Started) {
        self.talk_about(command, &self.launcher).await
    }

    async fn talk_about(
        &self,
        command: Command,
        launcher: &Launcher,
    ) -> (Result<Installed, PushError>, child::Started) {
        let mut started = child::start(command).unwrap();
        let handed =
            tokio::time::timeout(DEADLINE, hand_over(&mut started.stream, launcher, DEADLINE * 3)).await;
        (handed.expect("the dialogue ends in time"), started)
    }
}

/// A script that is an agent; long enough that it does not fit one pipe. No two tests have the same one: builds are
/// known by their content, and the last cache, in /tmp, is shared by all tests of this machine.
fn executable(folder: &tempfile::TempDir, agent: &str) -> Launcher {
    let path = folder.path().join("executable");
    std::fs::write(
        &path,
        format!(
            "#!/bin/sh\n[ \"$1\" = __agent ] || exit 9\n{agent}\nexit\n# {}{}",
            path.display(),
            "#".repeat(300_000)
        ),
    )
    .unwrap();
    Launcher::from_file(&path).unwrap()
}

async fn echoes(mut started: child::Started) {
    started.stream.write_all(b"order\n").await.unwrap();
    started.stream.shutdown().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, started.stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "order\n");
    assert_eq!(started.ended.await, Ok(ChannelEnd::Code(0)));
}

fn private_folder(path: &Path) {
    std::fs::create_dir_all(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn every_login_shell_pushes_once_and_then_finds() {
    for shell in ["sh", "dash", "bash", "zsh", "csh", "tcsh", "fish", "ksh"] {
        let machine = Machine::new();
        let present =
            std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|bin| bin.join(shell).exists());
        if !present {
            let lack = format!("{shell} is not installed: run `scripts/setup test`");
            let required = std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == "shells"), "EFARUN_TEST_REQUIRE: {lack}");
            println!("SKIPPED: every_login_shell_pushes_once_and_then_finds: {lack}");
            continue;
        }
        let (pushed, started) = machine.talk(machine.shell(shell, &machine.launcher)).await;
        let installed = machine.installed(&machine.launcher);
        assert_eq!(pushed.as_ref().unwrap().path, installed.to_str().unwrap(), "{shell}");
        echoes(started).await;
        let folder = installed.parent().unwrap();
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["efarun", "used"], "{shell}: no part is left");
        assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);

        let first = std::fs::metadata(&installed).unwrap().modified().unwrap();
        let (found, started) = machine.talk(machine.shell(shell, &machine.launcher)).await;
        assert_eq!(found, pushed, "{shell}");
        echoes(started).await;
        assert_eq!(
            std::fs::metadata(&installed).unwrap().modified().unwrap(),
            first,
            "{shell}: it was pushed again"
        );
    }
}

#[tokio::test]
async fn the_cache_folder_of_the_environment_comes_first() {
    let machine = Machine::new();
    let mut command = machine.shell("sh", &machine.launcher);
    command.env("XDG_CACHE_HOME", machine.folder.path().join("with blank"));
    let (pushed, started) = machine.talk(command).await;
    assert!(pushed.unwrap().path.contains("/with blank/efarun/"));
    echoes(started).await;
}

#[tokio::test]
async fn two_jobs_may_push_at_once() {
    let machine = Machine::new();
    let [a, b] = [(); 2].map(|()| machine.talk(machine.shell("sh", &machine.launcher)));
    let ((first, started), (second, started_too)) = tokio::join!(a, b);
    assert_eq!(first.unwrap(), second.unwrap());
    echoes(started).await;
    echoes(started_too).await;
}

#[tokio::test]
async fn a_cache_that_others_could_write_is_not_used() {
    let machine = Machine::new();
    let cache = machine.home().join(".cache/efarun");
    private_folder(&cache);
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o770)).unwrap();
    // What somebody put there must not be run.
    let planted = machine.installed(&machine.launcher);
    std::fs::create_dir(planted.parent().unwrap()).unwrap();
    std::fs::copy(machine.folder.path().join("executable"), &planted).unwrap();
    std::fs::set_permissions(&planted, std::fs::Permissions::from_mode(0o755)).unwrap();

    let (pushed, started) = machine.talk(machine.shell("sh", &machine.launcher)).await;
    let path = PathBuf::from(pushed.unwrap().path);
    assert!(path.starts_with(format!("/tmp/efarun-{}", nix::unistd::geteuid())), "{}", path.display());
    echoes(started).await;
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_linked_cache_is_not_used() {
    let machine = Machine::new();
    let elsewhere = machine.folder.path().join("elsewhere");
    private_folder(&elsewhere);
    std::fs::create_dir(machine.home().join(".cache")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, machine.home().join(".cache/efarun")).unwrap();
    let (pushed, started) = machine.talk(machine.shell("sh", &machine.launcher)).await;
    let path = PathBuf::from(pushed.unwrap().path);
    assert!(path.starts_with("/tmp"), "{}", path.display());
    echoes(started).await;
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_cache_that_cannot_be_made_is_passed_over() {
    let machine = Machine::new();
    std::fs::write(machine.home().join(".cache"), "a file in the way").unwrap();
    let (pushed, started) = machine.talk(machine.shell("bash", &machine.launcher)).await;
    let path = PathBuf::from(pushed.unwrap().path);
    assert!(path.starts_with("/tmp"), "{}", path.display());
    echoes(started).await;
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_full_disk_is_named_and_the_next_cache_is_tried() {
    let machine = Machine::new();
    // A limit on file size fails the write as a full disk does, without being root.
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("trap '' XFSZ; ulimit -f 100; {}", machine.launcher.remote_command()));
    command.env("HOME", machine.home());
    command.env_remove("XDG_CACHE_HOME");
    let (pushed, _started) = machine.talk(command).await;
    let Err(PushError::NoCache(reasons)) = pushed else { panic!("{pushed:?}") };
    let reasons = reasons.join("; ");
    for word in [machine.home().to_str().unwrap(), "/tmp/efarun-", "bytes arrived", "arge"] {
        assert!(reasons.contains(word), "{word} is missing in: {reasons}");
    }
    assert!(!machine.installed(&machine.launcher).exists());
}

#[tokio::test]
async fn start_up_files_may_print() {
    let machine = Machine::new();
    let mut command = Command::new("sh");
    let noise = "echo hello; echo complaint >&2; printf 'no end of line'";
    command.arg("-c").arg(format!("{noise}; {}", machine.launcher.remote_command()));
    command.env("HOME", machine.home());
    command.env_remove("XDG_CACHE_HOME");
    let (pushed, started) = machine.talk(command).await;
    assert!(pushed.is_ok(), "{pushed:?}");
    echoes(started).await;
}

#[tokio::test]
async fn a_cut_connection_leaves_no_part_that_could_be_run() {
    let machine = Machine::new();
    let mut started = child::start(machine.shell("sh", &machine.launcher)).unwrap();
    let mut buffer = vec![0; 1024];
    let mut heard = String::new();
    while !heard.contains(" need\n") {
        let len = started.stream.read(&mut buffer).await.unwrap();
        heard.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
    }
    started.stream.write_all(&machine.launcher.bytes().unwrap()[..1000]).await.unwrap();
    started.stream.shutdown().await.unwrap();
    let mut rest = String::new();
    tokio::time::timeout(DEADLINE, started.stream.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.contains("1000 of 300"), "{rest}");
    assert!(!machine.installed(&machine.launcher).parent().unwrap().exists());
}

#[tokio::test]
async fn a_damaged_executable_in_the_cache_is_replaced() {
    let machine = Machine::new();
    let (pushed, started) = machine.talk(machine.shell("sh", &machine.launcher)).await;
    assert!(pushed.is_ok());
    echoes(started).await;
    let installed = machine.installed(&machine.launcher);
    std::fs::write(&installed, "#!/bin/sh\nexit 1\n").unwrap();
    let (pushed, started) = machine.talk(machine.shell("sh", &machine.launcher)).await;
    assert!(pushed.is_ok());
    echoes(started).await;
}

#[tokio::test]
async fn a_build_that_is_started_again_counts_as_new() {
    let machine = Machine::new();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let (pushed, started) = machine.talk(machine.shell("sh", &machine.launcher)).await;
    assert!(pushed.is_ok());
    echoes(started).await;
    let used = machine.installed(&machine.launcher).with_file_name("used");
    std::fs::File::open(&used).unwrap().set_modified(long_ago).unwrap();
    let (found, started) = machine.talk(machine.shell("sh", &machine.launcher)).await;
    assert!(found.is_ok());
    echoes(started).await;
    assert!(std::fs::metadata(&used).unwrap().modified().unwrap() > long_ago);
}

#[tokio::test]
async fn only_the_newest_builds_stay_in_the_cache() {
    let machine = Machine::new();
    let mut builds = Vec::new();
    for number in 0..8 {
        let launcher = executable(&machine.folder, &format!("cat # {number}"));
        let (pushed, started) = machine.talk_about(machine.shell("sh", &launcher), &launcher).await;
        assert!(pushed.is_ok());
        echoes(started).await;
        // Folders made within one tick of the file system's clock have no order.
        let when = std::time::SystemTime::now() - Duration::from_secs(1000 - number);
        let used = machine.installed(&launcher).with_file_name("used");
        std::fs::File::open(used).unwrap().set_modified(when).unwrap();
        builds.push(launcher);
    }
    let kept: Vec<bool> = builds.iter().map(|launcher| machine.installed(launcher).exists()).collect();
    assert_eq!(kept, [false, false, false, true, true, true, true, true]);
}
