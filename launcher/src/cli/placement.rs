//! What `--map-by`, `--rank-by` and `--bind-to` mean: words of mpirun's, 4.1 and 5, with their modifiers.

use std::path::PathBuf;

use crate::binding::{BindTo, Object};
use crate::mapping::{MAX_RANKS, MapBy, RankBy, Resource};

/// `--map-by POLICY[:MODIFIERS]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct MapByValue {
    /// The policy.
    pub(super) map_by: MapBy,
    /// `PE=N`.
    pub(super) cpus_per_rank: Option<u32>,
    /// `OVERSUBSCRIBE`.
    pub(super) oversubscribe: bool,
    /// `NOLOCAL`.
    pub(super) nolocal: bool,
    /// `FILE=`, of `rankfile`.
    pub(super) file: Option<PathBuf>,
}

/// `--bind-to WHAT[:MODIFIERS]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct BindToValue {
    /// What to.
    pub(super) bind_to: BindTo,
    /// `overload-allowed`.
    pub(super) overload_allowed: bool,
}

/// Reads `--map-by`.
pub(super) fn map_by(text: &str) -> Result<MapByValue, String> {
    let lower = text.to_ascii_lowercase();
    let mut parts = lower.split(':').peekable();
    let mut value = MapByValue::default();
    match parts.next_if(|part| !part.is_empty() && !is_modifier(part)) {
        None => {}
        Some("ppr") => value.map_by = per_resource(parts.next(), parts.next())?,
        Some("slot") => {}
        Some("node") => value.map_by = MapBy::Node,
        Some("seq") => value.map_by = MapBy::Sequence,
        Some("rankfile") => value.map_by = MapBy::Rankfile,
        Some("gpu") => value.map_by = MapBy::PerResource { count: 1, resource: Resource::Gpu },
        Some(word) => value.map_by = MapBy::Object(object(word).ok_or_else(|| MAP_BY_IS.to_owned())?),
    }
    for word in parts.flat_map(|part| part.split(',')).filter(|word| !word.is_empty()) {
        match word.split_once('=').unwrap_or((word, "")) {
            ("pe", number) => value.cpus_per_rank = Some(cpus_per_rank(number)?),
            ("oversubscribe", "") => value.oversubscribe = true,
            ("nooversubscribe", "") => {}
            ("nolocal", "") => value.nolocal = true,
            ("span", "") => value.map_by = spanning(value.map_by)?,
            ("file", _) if value.map_by == MapBy::Rankfile => value.file = file_of(text),
            ("device", "gpu") => value.map_by = MapBy::PerResource { count: 1, resource: Resource::Gpu },
            _ => return Err(format!("unknown modifier `{word}`: {MODIFIERS_ARE}")),
        }
    }
    Ok(value)
}

/// The same over all hosts together.
fn spanning(map_by: MapBy) -> Result<MapBy, String> {
    match map_by {
        MapBy::Slot => Ok(MapBy::Span(None)),
        MapBy::Object(object) => Ok(MapBy::Span(Some(object))),
        MapBy::Node | MapBy::Span(_) => Ok(map_by),
        _ => Err("SPAN goes with slot, node, socket, numa, core and hwthread".to_owned()),
    }
}

/// What stands behind `FILE=`, in the letters that it was written in.
fn file_of(text: &str) -> Option<PathBuf> {
    let at = text.to_ascii_lowercase().find("file=").filter(|at| *at > "rank".len())?;
    // `rankfile:` itself ends in `file`, without `=`.
    let path = text[at + "file=".len()..].split([':', ',']).next()?;
    (!path.is_empty()).then(|| path.into())
}

fn per_resource(count: Option<&str>, resource: Option<&str>) -> Result<MapBy, String> {
    let wanted = "behind ppr: come a number and what it is for: node, socket, numa, core, hwthread or gpu, as in \
                  `ppr:4:socket`";
    let count = count.filter(|count| count.bytes().all(|byte| byte.is_ascii_digit()));
    let count = count.and_then(|count| count.parse().ok()).filter(|count| (1..=MAX_RANKS).contains(count));
    let resource = match resource {
        Some("node") => Some(Resource::Node),
        Some("gpu" | "device=gpu") => Some(Resource::Gpu),
        word => word.and_then(object).map(Resource::Object),
    };
    match (count, resource) {
        (Some(count), Some(resource)) => Ok(MapBy::PerResource { count, resource }),
        _ => Err(wanted.to_owned()),
    }
}

/// Reads `--rank-by`.
pub(super) fn rank_by(text: &str) -> Result<RankBy, String> {
    match text.to_ascii_lowercase().as_str() {
        "slot" | "fill" => Ok(RankBy::Slot),
        "node" => Ok(RankBy::Node),
        _ => Err("it must be slot or node".to_owned()),
    }
}

/// Reads `--bind-to`.
pub(super) fn bind_to(text: &str) -> Result<BindToValue, String> {
    let lower = text.to_ascii_lowercase();
    let mut parts = lower.split([':', ',']);
    let bind_to = match parts.next().unwrap_or_default() {
        "none" => BindTo::None,
        "gpu" => BindTo::Gpu,
        word => BindTo::Object(object(word).ok_or_else(|| BIND_TO_IS.to_owned())?),
    };
    let mut value = BindToValue { bind_to, overload_allowed: false };
    for word in parts {
        match word {
            "overload-allowed" => value.overload_allowed = true,
            // Binding is always to be had, and always in order.
            "if-supported" | "ordered" | "no-overload" => {}
            _ => return Err(format!("unknown modifier `{word}`: it is overload-allowed")),
        }
    }
    Ok(value)
}

/// A number of cores for each rank.
pub(super) fn cpus_per_rank(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (1..=MOST_CPUS).contains(number));
    number.ok_or_else(|| format!("it must be a number of cores from 1 to {MOST_CPUS}"))
}

fn object(word: &str) -> Option<Object> {
    match word {
        "hwthread" => Some(Object::Hwthread),
        "core" => Some(Object::Core),
        "numa" => Some(Object::Numa),
        "socket" | "package" => Some(Object::Socket),
        _ => None,
    }
}

/// A policy may be left out before a modifier: `:OVERSUBSCRIBE`.
fn is_modifier(word: &str) -> bool {
    word.contains('=') || matches!(word, "oversubscribe" | "nooversubscribe" | "nolocal" | "span")
}

const MAP_BY_IS: &str = "it must be slot, node, socket, numa, core, hwthread, gpu, ppr:N:RESOURCE, seq or rankfile:FILE=PATH; caches are not taken";
const BIND_TO_IS: &str = "it must be none, hwthread, core, numa, socket or gpu";
const MODIFIERS_ARE: &str = "it is PE=N, SPAN, OVERSUBSCRIBE, NOOVERSUBSCRIBE or NOLOCAL";
const MOST_CPUS: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpiruns_words_are_understood() {
        let by = |text| map_by(text).unwrap();
        assert_eq!(by("slot").map_by, MapBy::Slot);
        assert_eq!(
            by("Node:OverSubscribe"),
            MapByValue { map_by: MapBy::Node, oversubscribe: true, ..MapByValue::default() }
        );
        assert_eq!(by(":NOLOCAL"), MapByValue { nolocal: true, ..MapByValue::default() });
        assert_eq!(by("socket:PE=4").cpus_per_rank, Some(4));
        assert_eq!(by("package").map_by, MapBy::Object(Object::Socket));
        let per = |count, resource| MapBy::PerResource { count, resource };
        assert_eq!(by("ppr:8:node").map_by, per(8, Resource::Node));
        assert_eq!(by("ppr:2:numa:PE=3,NOLOCAL").map_by, per(2, Resource::Object(Object::Numa)));
        assert_eq!(
            (by("gpu").map_by, by("ppr:2:device=gpu").map_by),
            (per(1, Resource::Gpu), per(2, Resource::Gpu))
        );
        assert_eq!((by("seq").map_by, by("slot:SPAN").map_by), (MapBy::Sequence, MapBy::Span(None)));
        assert_eq!(by("socket:span").map_by, MapBy::Span(Some(Object::Socket)));
        assert_eq!(by("rankfile:FILE=/A/Ranks").file, Some("/A/Ranks".into()));
        let to = |text| bind_to(text).unwrap();
        assert_eq!(
            to("core:overload-allowed"),
            BindToValue { bind_to: BindTo::Object(Object::Core), overload_allowed: true }
        );
        assert_eq!((to("NONE").bind_to, to("gpu").bind_to), (BindTo::None, BindTo::Gpu));
        assert_eq!((rank_by("fill"), rank_by("node")), (Ok(RankBy::Slot), Ok(RankBy::Node)));
    }

    #[test]
    fn other_words_are_refused() {
        for text in [
            "",
            "ppr",
            "ppr:0:node",
            "ppr:x:node",
            "ppr:2",
            "ppr:+2:node",
            "l2cache",
            "seq:span",
            "ppr:1:node:span",
            "slot:file=x",
            "slot:pe=0",
            "slot:pe=",
        ] {
            assert!(map_by(text).is_err() || text.is_empty(), "{text}");
        }
        for text in ["", "l1cache", "core:loose", "board"] {
            assert!(bind_to(text).is_err(), "{text}");
        }
        assert!(rank_by("core").is_err());
    }
}
