//! `--dry-run`: the map and the environment, and nothing started.
//!
//! Online, agents have reported, so everything is known. Offline nobody was contacted; what only a host can tell is
//! marked as unknown rather than guessed.

use efarun_wire::JobId;
use serde_json::{Value, json};

use super::Prepared;
use super::writer::Writer;
use crate::env;
use crate::error::LaunchError;
use crate::exit_code::ExitCause;
use crate::job::{Host, JobSpec};
use crate::mapping::{self, HostWithSlots, MapError};

/// Shows what would be started.
pub fn online(spec: &JobSpec, job: &Prepared, writer: &Writer) -> ExitCause {
    let routes = job.placement.nodes.iter().zip(&job.agents);
    let routes: Vec<(String, &str)> =
        routes.map(|(place, agent)| (place.host.to_string(), agent.agent.route.as_str())).collect();
    let json = json!({
        "schema": SCHEMA,
        "offline": false,
        "placement": job.placement.to_json(),
        "routes": routes.iter().map(|(host, route)| json!({ "host": host, "route": route })).collect::<Vec<_>>(),
        "env": job.env.to_json(),
    });
    show(spec, writer, &json, &[job.placement.to_text(), job.env.to_text()]);
    ExitCause::Success
}

/// Shows what can be known without contacting anybody.
///
/// # Errors
///
/// When ranks and slots cannot fit, or the environment is refused, as far as either is known.
pub fn offline(spec: &JobSpec, hosts: &[Host], writer: &Writer) -> Result<ExitCause, LaunchError> {
    let slots: Vec<HostWithSlots> = hosts.iter().map(|host| mapping::slots_of(host.clone(), None)).collect();
    let placement = match mapping::place(spec.into(), &slots) {
        Ok(placement) => placement,
        Err(MapError::SlotsUnknown { hosts }) => {
            let unknown = json!({ "schema": SCHEMA, "offline": true, "placement": null, "slots_unknown": hosts, "env": null });
            let text = format!(
                "placement: unknown: nobody was contacted, and these hosts were named without slots: {}\n",
                hosts.join(", ")
            );
            show(spec, writer, &unknown, &[text]);
            return Ok(ExitCause::Success);
        }
        Err(error) => return Err(error.into()),
    };
    let env = env::job_env(&env::Inputs {
        spec,
        head_env: &super::head_env(),
        facts: &[],
        placement: &placement,
        job: JobId([0; 8]),
        addresses: &[],
        master_port: None,
        only_this_machine: false,
    })?;
    let json =
        json!({ "schema": SCHEMA, "offline": true, "placement": placement.to_json(), "env": env.to_json() });
    let doubt = "nobody was contacted: what depends on the hosts is not shown\n".to_owned();
    show(spec, writer, &json, &[placement.to_text(), env.to_text(), doubt]);
    Ok(ExitCause::Success)
}

const SCHEMA: &str = "efarun-dry-run/1";

fn show(spec: &JobSpec, writer: &Writer, json: &Value, text: &[String]) {
    if spec.json {
        writer.print(json.to_string());
    } else {
        text.iter().for_each(|part| writer.print(part.as_str()));
    }
}
