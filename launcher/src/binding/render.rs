//! Bindings as people read them.

use super::RankBinding;

/// Returns numbers as ranges: `0-3,8`.
pub fn ranges(numbers: &[u32]) -> String {
    let consecutive = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let range = |run: &[u32]| match run {
        [first, .., last] => format!("{first}-{last}"),
        [only] => only.to_string(),
        [] => String::new(),
    };
    consecutive.map(range).collect::<Vec<_>>().join(",")
}

/// Returns a binding as a fragment: `bound to CPUs 0-3, GPU 0000:10:1c.0, near rdmap16s27`.
pub fn describe(binding: &RankBinding) -> String {
    let mut parts = vec![match &binding.cpus[..] {
        [] => "not bound".to_owned(),
        [cpu] => format!("bound to CPU {cpu}"),
        cpus => format!("bound to CPUs {}", ranges(cpus)),
    }];
    parts.extend(binding.gpu.as_ref().map(|gpu| format!("GPU {gpu}")));
    if !binding.nics.is_empty() {
        parts.push(format!("near {}", binding.nics.join(" ")));
    }
    parts.join(", ")
}
