use proptest::prelude::*;

use super::*;

#[test]
fn maps_of_the_usual_command_lines() {
    let two = "a slots=8,b slots=8";
    let cases = [
        (two, "-n 16 -N 8"),
        (two, "-n 10"),
        (two, "-n 6 -N 4"),
        (two, "-N 2"),
        (two, "-n 3"),
        (two, ""),
        ("a slots=4,b slots=2,c slots=1", ""),
        ("a slots=5,b slots=3", "-n 8"),
        ("a,b", "-n 8 -N 4"),
        ("a,b", "-N 8"),
        ("a slots=1,b slots=2", "-n 8 --oversubscribe"),
        ("a slots=1,b slots=2", "-N 4 --oversubscribe"),
        ("a gpus=8,b gpus=8", ""),
        ("a cores=3,b gpus=1", ""),
        ("a listed,b listed", ""),
        ("a listed,b listed", "-N 8"),
        ("root@a slots=1", ""),
    ];
    let mut maps = String::new();
    for (hosts, options) in cases {
        let map = place(&request(options), &self::hosts(hosts)).unwrap();
        maps.push_str(&format!("hosts {hosts}; {options}\n{}\n", map.to_text()));
    }
    insta::assert_snapshot!("maps", maps);
}

#[test]
fn refusals_show_the_arithmetic_and_the_way_out() {
    let cases = [
        ("a slots=8,b gpus=4,c cores=2,d listed", "-n 16"),
        ("a slots=8,b slots=8", "-n 20 -N 8"),
        ("a slots=2,b slots=2", "-n 8 -N 8"),
        ("a slots=8,b slots=2", "-N 4"),
        ("a slots=8", "-n 20 -N 8 --oversubscribe"),
        ("a slots=8,b,c", "-n 10"),
        ("a slots=65536,b slots=65536", "-N 1048576 --oversubscribe"),
        ("", "-n 1"),
    ];
    let mut refusals = String::new();
    for (hosts, options) in cases {
        let error = place(&request(options), &self::hosts(hosts)).unwrap_err();
        refusals.push_str(&format!("hosts {hosts}; {options}\nerror: {error}\n\n"));
    }
    insta::assert_snapshot!("refusals", refusals);
}

#[test]
fn map_as_json() {
    let map = place(&request("-n 3"), &hosts("root@a slots=2,b gpus=8")).unwrap();
    insta::assert_snapshot!("json", serde_json::to_string_pretty(&map.to_json()).unwrap());
}

#[test]
fn unknown_slots_matter_only_where_a_rank_could_go() {
    let hosts = hosts("a slots=8,b");
    assert_eq!(place(&request("-n 8"), &hosts).unwrap().nodes.len(), 1);
    let error = place(&request("-n 9"), &hosts).unwrap_err();
    assert_eq!(error, MapError::SlotsUnknown { hosts: vec!["b".to_owned()] });
    assert_eq!(place(&request("-n 9 -N 5"), &hosts).unwrap().nodes[1].slots, None);
}

#[test]
fn hosts_that_cannot_get_a_rank_are_not_needed() {
    let needed = |hosts: &str, options: &str| {
        let hosts: Vec<Host> = self::hosts(hosts).into_iter().map(|host| host.host).collect();
        hosts_needed(&request(options), &hosts).into_iter().filter(|needed| *needed).count()
    };
    assert_eq!(needed("a slots=8,b slots=8,c slots=8", "-n 16"), 2);
    assert_eq!(needed("a slots=8,b slots=8,c slots=8", "-n 16 -N 4"), 3);
    assert_eq!(needed("a slots=8,b slots=8,c slots=8", "-n 2 -N 1"), 2);
    assert_eq!(needed("a,b,c", "-n 2"), 2);
    assert_eq!(needed("a listed,b listed,c listed", "-n 2"), 2);
    assert_eq!(needed("a,b,c", ""), 3);
    assert_eq!(needed("a,b,c", "-N 2"), 3);
    assert_eq!(needed("a slots=1,b slots=1,c slots=1", "-n 9 --oversubscribe"), 3);
}

fn hosts_of_ranks(map: &Placement) -> String {
    map.ranks.iter().map(|rank| map.nodes[rank.node.index()].host.name.as_str()).collect()
}

#[test]
fn ranks_are_dealt_and_numbered_as_asked_for() {
    let map = |options: &str, map_by, rank_by| {
        let request = Request { map_by, rank_by, ..request(options) };
        hosts_of_ranks(&place(&request, &hosts("a slots=3,b slots=1,c slots=3")).unwrap())
    };
    assert_eq!(map("-n 5", MapBy::Slot, None), "aaabc");
    assert_eq!(map("-n 5", MapBy::Node, None), "abcac");
    assert_eq!(map("-n 5", MapBy::Node, Some(RankBy::Slot)), "aabcc");
    assert_eq!(map("-n 5", MapBy::Slot, Some(RankBy::Node)), "abcaa");
    assert_eq!(map("", MapBy::Node, None), "abcacac");
    assert_eq!(map("-n 8 --oversubscribe", MapBy::Node, None), "abcacaca");
    let two_each = MapBy::PerResource { count: 2, resource: Resource::Node };
    assert_eq!(map("-n 4", two_each, None), "aabc");
    assert_eq!(map("", two_each, None), "aabcc");
}

#[test]
fn ranks_per_resource_follow_what_each_host_has() {
    let cpu = |id| efarun_wire::facts::Cpu { id, core: id, package: id / 2, numa: id / 2 };
    let mut hosts = hosts("a slots=8,b slots=8");
    hosts[0].topology = Some(Topology { cpus: (0..4).map(cpu).collect(), ..Topology::default() });
    hosts[1].topology = Some(Topology { cpus: (0..2).map(cpu).collect(), ..Topology::default() });
    let per = |count, resource| Request { map_by: MapBy::PerResource { count, resource }, ..request("") };
    let map = place(&per(2, Resource::Object(crate::binding::Object::Socket)), &hosts).unwrap();
    assert_eq!(hosts_of_ranks(&map), "aaaabb");
    let error = place(&per(1, Resource::Gpu), &hosts).unwrap_err();
    assert!(matches!(error, MapError::NoRoom { .. }), "{error}");
}

#[test]
fn programs_take_what_those_before_them_have_left() {
    let app =
        |rank_count: u32, hosts: Option<Vec<HostChoice>>| AppRequest { rank_count: Some(rank_count), hosts };
    let request = |apps: Vec<AppRequest>| Request { apps, ..Request::default() };
    let hosts = hosts("a slots=2,b slots=2,c slots=2");
    let places = |request: &Request| -> Vec<(String, usize, u32)> {
        let map = place(request, &hosts).unwrap();
        let place =
            |rank: &RankPlace| (map.nodes[rank.node.index()].host.name.clone(), rank.app, rank.local_rank);
        map.ranks.iter().map(place).collect()
    };
    let at = |host: &str, app, local| (host.to_owned(), app, local);
    let shared = request(vec![app(1, None), app(3, None)]);
    assert_eq!(places(&shared), [at("a", 0, 0), at("a", 1, 1), at("b", 1, 0), at("b", 1, 1)]);
    let on_c = Some(vec![HostChoice { index: 2, slots: Some(1) }]);
    let apart = request(vec![app(1, None), app(1, on_c.clone())]);
    assert_eq!(places(&apart), [at("a", 0, 0), at("c", 1, 0)]);
    let map = place(&apart, &hosts).unwrap();
    assert_eq!(
        map.nodes.iter().map(|node| (node.node.0, node.host_index)).collect::<Vec<_>>(),
        [(0, 0), (1, 2)]
    );
    let error = place(&request(vec![app(5, None), app(2, None)]), &hosts).unwrap_err().to_string();
    assert!(
        error.starts_with("2 ranks asked for, 1 slots there after the 5 that programs before it take:"),
        "{error}"
    );
    assert!(place(&request(vec![app(2, on_c)]), &hosts).is_err());
}

proptest! {
    #[test]
    fn placement_is_complete_within_its_limits_and_in_order(
        slots in prop::collection::vec((1u32..9, any::<bool>()), 1..9),
        rank_count in prop::option::of(1u32..60),
        per_node in prop::option::of(1u32..9),
        oversubscribe: bool,
        map_by in prop::sample::select(vec![MapBy::Slot, MapBy::Node, MapBy::Span(None)]),
        rank_by in prop::option::of(prop::sample::select(vec![RankBy::Slot, RankBy::Node])),
    ) {
        let app = AppRequest { rank_count, hosts: None };
        let request = Request { apps: vec![app], per_node, oversubscribe, map_by, rank_by, sequence: Vec::new() };
        let hosts: Vec<HostWithSlots> = slots.iter().map(|(slots, given)| with_slots(*slots, *given)).collect();
        let limit = |host: &HostWithSlots| match (per_node, host.origin) {
            (None, _) => host.slots.unwrap(),
            (Some(per_node), SlotsOrigin::Given) if !oversubscribe => per_node.min(host.slots.unwrap()),
            (Some(per_node), _) => per_node,
        };
        let room: u32 = hosts.iter().map(limit).sum();
        let Ok(map) = place(&request, &hosts) else {
            let contradiction = rank_count.is_none() && per_node.is_some() && !oversubscribe;
            let too_many = rank_count > Some(room) && (!oversubscribe || per_node.is_some());
            prop_assert!(contradiction || too_many, "refused without need");
            return Ok(());
        };
        prop_assert_eq!(map.world_size(), rank_count.unwrap_or(room));
        let fits = map.nodes.iter().zip(&hosts).all(|(node, host)| node.ranks.len() <= limit(host) as usize);
        prop_assert!(fits || (oversubscribe && per_node.is_none()));
        let mut next = 0;
        for (index, node) in map.nodes.iter().enumerate() {
            prop_assert_eq!(node.node.index(), index);
            prop_assert!(!node.ranks.is_empty() && node.ranks.is_sorted());
            for (local_rank, rank) in node.ranks.iter().enumerate() {
                let place = map.ranks[rank.index()];
                prop_assert_eq!((place.rank, place.node, place.local_rank as usize), (*rank, node.node, local_rank));
                next += 1;
            }
        }
        prop_assert_eq!(next, map.world_size());
        let named: Vec<Host> = hosts.iter().map(|host| host.host.clone()).collect();
        let needed = hosts_needed(&request, &named);
        prop_assert!(map.nodes.iter().all(|node| needed[node.host_index]), "a rank went where nobody was asked");
    }
}

#[test]
fn hosts_named_one_by_one_get_ranks_in_that_order() {
    let map = |options: &str, map_by| {
        let request = Request { map_by, sequence: vec![0, 2, 0, 1], ..request(options) };
        place(&request, &hosts("a slots=1,b slots=1,c slots=1")).map(|map| hosts_of_ranks(&map))
    };
    for map_by in [MapBy::Sequence, MapBy::Rankfile] {
        assert_eq!(map("", map_by).unwrap(), "acab", "slots do not count");
        assert_eq!(map("-n 2", map_by).unwrap(), "ac");
        let error = map("-n 5", map_by).unwrap_err();
        assert!(matches!(error, MapError::TooFewPlaces { asked: 5, places: 4, .. }), "{error}");
    }
    let named = |name: &str, places: &[u32]| Host { places: places.to_vec(), ..host(name) };
    let spec = JobSpec { map_by: MapBy::Sequence, ..JobSpec::default() };
    let read = Request::new(&spec, &[named("a", &[1, 4]), named("b", &[3])]).unwrap();
    assert_eq!(read.sequence, [0, 1, 0]);
    let request = Request { map_by: MapBy::Sequence, sequence: vec![0, 2, 0, 1], ..request("-n 2") };
    let named: Vec<Host> = hosts("a,b,c").into_iter().map(|host| host.host).collect();
    assert_eq!(hosts_needed(&request, &named), [true, false, true]);
}

#[test]
fn ranks_that_span_hosts_are_dealt_to_all_of_their_objects() {
    let cpu = |id| efarun_wire::facts::Cpu { id, core: id, package: id / 2, numa: id / 2 };
    let mut hosts = hosts("a slots=8,b slots=8");
    hosts[0].topology = Some(Topology { cpus: (0..4).map(cpu).collect(), ..Topology::default() });
    hosts[1].topology = Some(Topology { cpus: (0..2).map(cpu).collect(), ..Topology::default() });
    let map = |options: &str, object| {
        let request = Request { map_by: MapBy::Span(object), ..request(options) };
        hosts_of_ranks(&place(&request, &hosts).unwrap())
    };
    let socket = Some(crate::binding::Object::Socket);
    assert_eq!(map("-n 3", socket), "aab", "two sockets there, one here");
    assert_eq!(map("-n 6", socket), "aaaabb");
    assert_eq!(map("-n 4", None), "aabb");
}

#[test]
fn the_most_slots_of_a_host_hold_for_oversubscription_too() {
    let mut hosts = hosts("a slots=1,b slots=1");
    hosts[0].host.max_slots = Some(2);
    let map = |options: &str| place(&request(options), &hosts).map(|map| hosts_of_ranks(&map));
    assert_eq!(map("-n 6 --oversubscribe").unwrap(), "aabbbb");
    assert_eq!(map("-N 3 --oversubscribe").unwrap(), "aabbb");
    hosts[1].host.max_slots = Some(3);
    let error = place(&request("-n 6 --oversubscribe"), &hosts).unwrap_err();
    assert!(matches!(error, MapError::BeyondMaxSlots { asked: 6, room: 5, .. }), "{error}");
}

fn with_slots(slots: u32, given: bool) -> HostWithSlots {
    let mut host = host("h");
    if given {
        host.slots = Some(slots);
        slots_of(host, None)
    } else {
        HostWithSlots { host, slots: Some(slots), origin: SlotsOrigin::Cores, topology: None }
    }
}

fn host(name: &str) -> Host {
    let (user, name) =
        name.split_once('@').map_or((None, name), |(user, name)| (Some(user.to_owned()), name));
    Host {
        name: name.to_owned(),
        address: None,
        user,
        port: None,
        slots: None,
        max_slots: None,
        places: Vec::new(),
        origin: "hosts:1".to_owned(),
    }
}

/// `a slots=8,b gpus=4,c cores=2,d listed,e`: hosts with slots from every origin.
fn hosts(text: &str) -> Vec<HostWithSlots> {
    let one = |(index, text): (usize, &str)| {
        let (name, from) = text.split_once(' ').unwrap_or((text, ""));
        let mut host = host(name);
        host.origin = format!("hosts:{}", index + 1);
        let (key, number) = from.split_once('=').unwrap_or((from, "0"));
        let number: u32 = number.parse().unwrap();
        let (slots, origin) = match key {
            "slots" => {
                host.slots = Some(number);
                return slots_of(host, None);
            }
            "listed" => {
                host.origin = Host::FROM_HOST_LIST.to_owned();
                return slots_of(host, None);
            }
            "gpus" => (Some(number), SlotsOrigin::Gpus),
            "cores" => (Some(number), SlotsOrigin::Cores),
            _ => (None, SlotsOrigin::Unknown),
        };
        HostWithSlots { host, slots, origin, topology: None }
    };
    text.split(',').filter(|text| !text.is_empty()).enumerate().map(one).collect()
}

fn request(options: &str) -> Request {
    let words: Vec<&str> = options.split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words[at + 1].parse().ok()
    };
    Request {
        apps: vec![AppRequest { rank_count: after("-n"), hosts: None }],
        per_node: after("-N"),
        oversubscribe: words.contains(&"--oversubscribe"),
        ..Request::default()
    }
}
