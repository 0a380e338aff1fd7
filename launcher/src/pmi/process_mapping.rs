//! The value of `PMI_process_mapping`: which node each rank is on, as `(vector,(START,NODES,RANKS),…)`.
//!
//! A block says that nodes START, START + 1, …, NODES of them, have RANKS consecutive ranks each; ranks are dealt to
//! blocks in order. Without the key libraries compare host names instead, so that a mapping that would not fit a value is
//! left out.

use efarun_wire::message::JobMap;

/// Makes the value, where it fits into so many bytes.
pub(super) fn process_mapping(map: &JobMap, limit_bytes: usize) -> Option<String> {
    let blocks = blocks(&node_by_rank(map));
    let whole = text(&blocks);
    if whole.len() <= limit_bytes {
        return Some(whole);
    }
    // Libraries begin again at the first block of node 0 when the blocks are used up.
    let period = (1..=blocks.len() / 2).find(|period| is_period(&blocks, *period))?;
    Some(text(&blocks[..period])).filter(|text| blocks[0].start == 0 && text.len() <= limit_bytes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    start: usize,
    nodes: usize,
    ranks: usize,
}

fn node_by_rank(map: &JobMap) -> Vec<usize> {
    let placed = map.nodes.iter().enumerate();
    let mut placed: Vec<_> =
        placed.flat_map(|(node, place)| place.ranks.iter().map(move |rank| (*rank, node))).collect();
    placed.sort_unstable();
    placed.into_iter().map(|(_, node)| node).collect()
}

fn blocks(node_by_rank: &[usize]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for run in node_by_rank.chunk_by(|a, b| a == b) {
        let (start, ranks) = (run[0], run.len());
        match blocks.last_mut() {
            Some(last) if last.ranks == ranks && last.start + last.nodes == start => last.nodes += 1,
            _ => blocks.push(Block { start, nodes: 1, ranks }),
        }
    }
    blocks
}

fn is_period(blocks: &[Block], period: usize) -> bool {
    blocks.iter().zip(&blocks[period..]).all(|(block, later)| block == later)
}

fn text(blocks: &[Block]) -> String {
    let blocks: String =
        blocks.iter().map(|block| format!(",({},{},{})", block.start, block.nodes, block.ranks)).collect();
    format!("(vector{blocks})")
}

#[cfg(test)]
mod tests {
    use efarun_wire::Rank;
    use efarun_wire::message::MappedNode;

    use super::*;

    fn mapped(node_by_rank: &[usize]) -> JobMap {
        let count = node_by_rank.iter().max().unwrap() + 1;
        let ranks =
            |node| (0..).zip(node_by_rank).filter(move |(_, of)| **of == node).map(|(rank, _)| Rank(rank));
        let node = |node| MappedNode { host: format!("h{node}"), ranks: ranks(node).collect() };
        JobMap { nodes: (0..count).map(node).collect(), universe_size: 1, ..JobMap::default() }
    }

    /// Which node each rank is on, as libraries read it.
    fn read(text: &str, world_size: usize) -> Vec<usize> {
        let inner = text.strip_prefix("(vector,(").unwrap().strip_suffix("))").unwrap();
        let blocks: Vec<Vec<usize>> = inner
            .split("),(")
            .map(|block| block.split(',').map(|number| number.parse().unwrap()).collect())
            .collect();
        let nodes =
            blocks.iter().flat_map(|block| (block[0]..block[0] + block[1]).map(|node| (node, block[2])));
        let ranks: Vec<usize> = nodes.flat_map(|(node, ranks)| std::iter::repeat_n(node, ranks)).collect();
        ranks.iter().copied().cycle().take(world_size).collect()
    }

    #[test]
    fn blocks_are_as_hydra_writes_them() {
        let cases: [(&[usize], &str); 5] = [
            (&[0, 0, 0, 0], "(vector,(0,1,4))"),
            (&[0, 0, 1, 1], "(vector,(0,2,2))"),
            (&[0, 0, 0, 0, 0, 1, 1, 1], "(vector,(0,1,5),(1,1,3))"),
            (&[0, 1, 0, 1], "(vector,(0,2,1),(0,2,1))"),
            (&[1, 0], "(vector,(1,1,1),(0,1,1))"),
        ];
        for (node_by_rank, expected) in cases {
            assert_eq!(process_mapping(&mapped(node_by_rank), 1024).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_mapping_that_is_too_long_is_repeated_or_left_out_and_never_wrong() {
        let dealt: Vec<usize> = (0..1024).map(|rank| rank % 4).collect();
        assert_eq!(process_mapping(&mapped(&dealt), 1024).as_deref(), Some("(vector,(0,4,1))"));
        let mut irregular = dealt.clone();
        irregular.swap(500, 501);
        assert_eq!(process_mapping(&mapped(&irregular), 1024), None);
        for node_by_rank in [&dealt[..], &dealt[..7], &[0, 0, 2, 2, 1, 1, 0, 2], &[2, 1, 0, 0]] {
            let mapping = process_mapping(&mapped(node_by_rank), 1024).unwrap();
            assert_eq!(read(&mapping, node_by_rank.len()), node_by_rank, "{mapping}");
        }
    }
}
