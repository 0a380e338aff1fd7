//! The floor under a launch: one bare SSH session per host, all at once, each running `true`, by the launcher's own code.
//!
//! `ssh_floor HOST…` exits with 0 when all of them have ended with 0. `scripts/bench launch` times it.

use std::process::ExitCode;
use std::time::Duration;

use efarun::spawn::ChannelEnd;
use efarun::spawn::ssh::config::SshEnvironment;
use efarun::spawn::ssh::run_command;
use tokio::task::JoinSet;

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let hosts = match efarun::hostfile::hosts(None, &names) {
        Ok(hosts) if !names.is_empty() => hosts,
        Ok(_) => return complain("which hosts?"),
        Err(error) => return complain(&error.to_string()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.to_string()),
    };
    runtime.block_on(async {
        let mut sessions = JoinSet::new();
        for host in hosts {
            let environment = SshEnvironment::of_this_process();
            sessions.spawn(async move { run_command(&host, &environment, "true", ALLOWED).await });
        }
        let mut code = ExitCode::SUCCESS;
        while let Some(ended) = sessions.join_next().await {
            match ended {
                Ok(Ok(ChannelEnd::Code(0))) => {}
                Ok(Ok(end)) => code = complain(&format!("`true` ended with {end:?}")),
                Ok(Err(error)) => code = complain(&error.to_string()),
                Err(error) => code = complain(&error.to_string()),
            }
        }
        code
    })
}

#[expect(clippy::print_stderr, reason = "this program has nothing else to say")]
fn complain(line: &str) -> ExitCode {
    eprintln!("ssh_floor: {line}");
    ExitCode::FAILURE
}

const ALLOWED: Duration = Duration::from_secs(30);
