//! `--dry-run`: the map and the environment, and nothing started.
//!
//! Online, agents have reported, so everything is known. Offline nobody was contacted; what only a host can tell is
//! marked as unknown rather than guessed.

use efarun_wire::JobId;
use serde_json::{Value, json};

use super::Prepared;
use super::writer::Writer;
use crate::binding::{self, RankBinding};
use crate::env::{self, JobEnv};
use crate::error::LaunchError;
use crate::job::{App, Host, JobSpec};
use crate::mapping::{self, HostWithSlots, MapError};

/// Shows what would be started.
pub fn online(spec: &JobSpec, job: &Prepared, writer: &Writer) {
    let routes = job.placement.nodes.iter().zip(&job.agents);
    let routes: Vec<(String, &str)> =
        routes.map(|(place, agent)| (place.host.to_string(), agent.agent.route.as_str())).collect();
    let json = json!({
        "schema": SCHEMA,
        "offline": false,
        "placement": job.placement.to_json(),
        "routes": routes.iter().map(|(host, route)| json!({ "host": host, "route": route })).collect::<Vec<_>>(),
        "bindings": job.bindings.iter().map(binding_json).collect::<Vec<_>>(),
        "env": job.env[0].to_json(),
        "apps": apps_json(spec, &job.env),
    });
    let bindings = bindings_text(&job.bindings);
    show(spec, writer, &json, &[job.placement.to_text(), bindings, env_text(spec, &job.env)]);
}

/// Shows what can be known without contacting anybody.
///
/// # Errors
///
/// When ranks and slots cannot fit, or the environment is refused, as far as either is known.
pub fn offline(spec: &JobSpec, hosts: &[Host], writer: &Writer) -> Result<(), LaunchError> {
    let slots: Vec<HostWithSlots> = hosts.iter().map(|host| mapping::slots_of(host.clone(), None)).collect();
    let placement = match mapping::place(&super::request(spec, hosts)?, &slots) {
        Ok(placement) => placement,
        Err(MapError::SlotsUnknown { hosts }) => {
            let unknown = json!({ "schema": SCHEMA, "offline": true, "placement": null, "slots_unknown": hosts, "env": null });
            let text = format!(
                "placement: unknown: nobody was contacted, and these hosts were named without slots: {}\n",
                hosts.join(", ")
            );
            show(spec, writer, &unknown, &[text]);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let head_env = super::head_env();
    let env_of = |app: &App| {
        env::job_env(&env::Inputs {
            spec,
            app,
            head_env: &head_env,
            facts: &[],
            placement: &placement,
            job: JobId([0; 8]),
            addresses: &[],
            master_port: None,
            only_this_machine: false,
        })
    };
    let env = spec.apps.iter().map(env_of).collect::<Result<Vec<_>, _>>()?;
    let json = json!({
        "schema": SCHEMA,
        "offline": true,
        "placement": placement.to_json(),
        "env": env[0].to_json(),
        "apps": apps_json(spec, &env),
    });
    let doubt = "nobody was contacted: what depends on the hosts is not shown\n".to_owned();
    show(spec, writer, &json, &[placement.to_text(), env_text(spec, &env), doubt]);
    Ok(())
}

fn binding_json(binding: &RankBinding) -> Value {
    json!({ "cpus": binding.cpus, "gpu": binding.gpu, "nics": binding.nics })
}

/// What each rank gets of its node, where that says anything.
fn bindings_text(bindings: &[RankBinding]) -> String {
    if bindings.iter().all(|binding| *binding == RankBinding::default()) {
        return String::new();
    }
    let line =
        |(rank, binding): (usize, &RankBinding)| format!("rank {rank}: {}\n", binding::describe(binding));
    bindings.iter().enumerate().map(line).collect()
}

/// The programs, each with its environment. `env` beside it is the first one's, as before there could be several.
fn apps_json(spec: &JobSpec, env: &[JobEnv]) -> Vec<Value> {
    let text = |bytes: &std::ffi::OsString| bytes.to_string_lossy().into_owned();
    let app = |(app, env): (&App, &JobEnv)| {
        json!({
            "program": text(&app.program),
            "args": app.args.iter().map(text).collect::<Vec<_>>(),
            "env": env.to_json(),
        })
    };
    spec.apps.iter().zip(env).map(app).collect()
}

/// The environment; of several programs each under its name.
fn env_text(spec: &JobSpec, env: &[JobEnv]) -> String {
    if let [env] = env {
        return env.to_text();
    }
    let app = |(app, env): (&App, &JobEnv)| format!("program {}:\n{}", app.program.display(), env.to_text());
    spec.apps.iter().zip(env).map(app).collect()
}

const SCHEMA: &str = "efarun-dry-run/1";

fn show(spec: &JobSpec, writer: &Writer, json: &Value, text: &[String]) {
    if spec.json {
        writer.print(json.to_string());
    } else {
        text.iter().filter(|part| !part.is_empty()).for_each(|part| writer.print(part.as_str()));
    }
}
