//! Steps of short calls on the emulator: a rank may do them one by one or several in a launch, whatever others do.

use std::sync::atomic::Ordering::Relaxed;

use efarun_wire::Rank;

use super::collectives::Chance;
use super::emulator::{Emulator, Node, Work};
use super::protocol::seeds;
use super::relay::{NOISE, Part, Ranks};
use crate::element::{ElementType, ReduceOp};
use crate::nvlink::call::{DeviceCollective, DeviceElement, DeviceOp};
use crate::nvlink::launch::{NodeStep, Request};
use crate::nvlink::parameters::status;
use crate::nvlink::part::{Leaf, Shape};
use crate::nvlink::room::Room;
use crate::relay::{Reduction, ShortSteps, Stretch, Transfer};

const SUM: DeviceOp = DeviceOp::Of(ReduceOp::Sum);
const ELEMENT: DeviceElement = DeviceElement::Of(ElementType::I32);

/// What all ranks do next, with what the step before has left each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The node's ranks reduce what they have.
    AllReduce,
    /// Each of the node's ranks gives each of them a block, or all of them the one of its number.
    AllToAll,
    AllGather,
    /// The two ranks of a rail give each other all of it.
    Exchange,
    /// The same, reduced with what is there.
    ExchangeAndReduce,
    /// The rank of the first node gives it.
    Give,
}

impl Act {
    fn of_node(self) -> Option<DeviceCollective> {
        match self {
            Act::AllReduce => Some(DeviceCollective::AllReduce),
            Act::AllToAll => Some(DeviceCollective::AllToAll),
            Act::AllGather => Some(DeviceCollective::AllGather),
            _ => None,
        }
    }
}

/// Two nodes of some ranks, numbered node by node, which do the same acts.
struct Play {
    locals: usize,
    bytes: usize,
    acts: Vec<Act>,
    /// Of each rank what it begins with, and what each act leaves it.
    parts: Vec<Vec<Part>>,
}

impl Play {
    /// Acts that reduce, or such as only move.
    fn new(chance: &mut Chance, (locals, reduces): (usize, bool), count: usize) -> Play {
        let kinds = match reduces {
            true => [Act::AllReduce, Act::Exchange, Act::ExchangeAndReduce, Act::Give],
            false => [Act::AllToAll, Act::AllGather, Act::Exchange, Act::Give],
        };
        // So much as a block of threads takes at once, or for each of the node's ranks so much.
        let most = if reduces { 4096 } else { 4096 * locals };
        let bytes = [4 * locals, most / 8, most][chance.next() as usize % 3];
        let acts: Vec<_> = (0..count).map(|_| kinds[chance.next() as usize % kinds.len()]).collect();
        let mut of_rank = || (0..=count).map(|at| Part::new(chance, bytes, at == 0)).collect();
        let parts = (0..2 * locals).map(|_| of_rank()).collect();
        Play { locals, bytes, acts, parts }
    }

    fn ranks(&self) -> usize {
        2 * self.locals
    }

    /// Where what a rank has lies when it comes to an act: what gives leaves the giver what it has.
    fn at(&self, rank: usize, act: usize) -> Stretch {
        let is_kept = |act: &usize| self.acts[*act] == Act::Give && rank < self.locals;
        let kept = (0..act).rev().take_while(is_kept).count();
        self.parts[rank][act - kept].stretch()
    }

    fn transfer(&self, rank: usize, act: usize) -> Option<Transfer> {
        let (from, to) = (self.at(rank, act), self.parts[rank][act + 1].stretch());
        let other = Rank(((rank + self.locals) % self.ranks()) as u32);
        let is_first = rank < self.locals;
        let (puts, gets) = match self.acts[act] {
            Act::Exchange | Act::ExchangeAndReduce => (true, true),
            Act::Give => (is_first, !is_first),
            _ => return None,
        };
        let reduction = Reduction {
            own: from.pointer,
            place: u32::from(!is_first),
            element: ELEMENT,
            op: SUM,
            ranks: self.ranks() as u32,
        };
        let list = |is_used: bool, stretch| if is_used { vec![stretch] } else { Vec::new() };
        let with = |is_used: bool| if is_used { vec![(other, 0)] } else { Vec::new() };
        Some(Transfer {
            puts: list(puts, from),
            gets: list(gets, to),
            sends: with(puts),
            receives: with(gets),
            reduction: (self.acts[act] == Act::ExchangeAndReduce).then_some(reduction),
            slice_bytes: Transfer::slice_bytes(self.bytes, 1),
            ..Transfer::default()
        })
    }

    fn transfers(&self, rank: usize) -> Vec<Transfer> {
        (0..self.acts.len()).filter_map(|act| self.transfer(rank, act)).collect()
    }

    fn node_step(&self, nodes: &[Node; 2], rank: usize, act: usize) -> NodeStep {
        let collective = self.acts[act].of_node().expect("it is the node's");
        let (ranks, local) = (self.locals as u32, rank % self.locals);
        let block = self.bytes / self.locals;
        let (input, output) = (self.at(rank, act).pointer, self.parts[rank][act + 1].stretch().pointer);
        let is_gather = collective == DeviceCollective::AllGather;
        let request = Request {
            shape: Shape {
                collective,
                count_bytes: if collective.reduces() { self.bytes } else { block },
                ranks,
                room: Room::WHOLE,
            },
            leaf: Leaf::OneShot,
            element: ELEMENT,
            op: SUM,
            input: if is_gather { input.offset(local * block) } else { input },
            output,
            reached: None,
        };
        request.step(&nodes[rank / self.locals].standing(local as u32)).expect("it is short")
    }

    /// A rank's work, of which it does two acts in a launch where chance says so.
    fn works(&self, chance: &mut Chance, nodes: &[Node; 2], hosts: &Ranks, rank: usize) -> Vec<Work> {
        let transfers = self.transfers(rank);
        let is_of_node = |act: usize| self.acts[act].of_node().is_some();
        let (mut works, mut act, mut number) = (Vec::new(), 0, 0);
        while act < self.acts.len() {
            let is_node_first = is_of_node(act);
            let are_two = act + 1 < self.acts.len() && is_of_node(act + 1) != is_node_first;
            let together = are_two && transfers[number].is_short() && !chance.next().is_multiple_of(3);
            works.push(if together {
                let node = self.node_step(nodes, rank, act + usize::from(!is_node_first));
                let steps = ShortSteps { transfer: &transfers[number], node, is_node_first };
                Work::ShortSteps(Box::new(steps.told(hosts.told(rank, number))), steps.element())
            } else if is_node_first {
                Work::NodeStep(self.node_step(nodes, rank, act))
            } else {
                hosts.work(rank, number)
            });
            number += usize::from(together || !is_node_first);
            act += 1 + usize::from(together);
        }
        works
    }

    /// What an act leaves the ranks of what each has.
    fn expected(&self, act: usize, have: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        let (locals, block) = (self.locals, self.bytes / self.locals);
        let node_of = |rank: usize| rank / locals * locals..(rank / locals + 1) * locals;
        let block_of = |of: usize| of * block..(of + 1) * block;
        let sum = |ranks: &mut dyn Iterator<Item = usize>| {
            let element = |bytes: &[u8]| i32::from_ne_bytes(bytes.try_into().expect("four bytes"));
            let of = |rank: usize| have[rank].chunks_exact(4).map(element).collect::<Vec<_>>();
            let add = |a: Vec<i32>, b: Vec<i32>| {
                a.iter().zip(b).map(|(a, b)| a.wrapping_add(b)).collect::<Vec<_>>()
            };
            bytemuck::cast_slice(&ranks.map(of).reduce(add).expect("some")).to_vec()
        };
        let left = |rank: usize| {
            let (other, local) = ((rank + locals) % self.ranks(), rank % locals);
            match self.acts[act] {
                Act::AllReduce => Some(sum(&mut node_of(rank))),
                Act::AllToAll => {
                    Some(node_of(rank).flat_map(|it| have[it][block_of(local)].to_vec()).collect())
                }
                Act::AllGather => {
                    Some(node_of(rank).flat_map(|it| have[it][block_of(it % locals)].to_vec()).collect())
                }
                Act::Exchange => Some(have[other].clone()),
                Act::ExchangeAndReduce => Some(sum(&mut [rank, other].into_iter())),
                Act::Give => (rank >= locals).then(|| have[other].clone()),
            }
        };
        (0..self.ranks()).map(left).collect()
    }

    fn check(&self, what: &str) {
        let mut have: Vec<_> = self.parts.iter().map(|parts| parts[0].content().to_vec()).collect();
        for act in 0..self.acts.len() {
            let what = format!("{what}: act {act} of {:?} on {} ranks of a node", self.acts, self.locals);
            for (rank, left) in self.expected(act, &have).into_iter().enumerate() {
                let part = &self.parts[rank][act + 1];
                match left {
                    None => part.check(&vec![NOISE as u8; self.bytes], &what),
                    Some(left) => {
                        part.check(&left, &what);
                        have[rank] = left;
                    }
                }
            }
        }
    }
}

#[test]
fn steps_give_the_same_in_one_launch_or_in_several_whatever_others_do() {
    let name = "steps_give_the_same_in_one_launch_or_in_several_whatever_others_do";
    let Some(emulator) = Emulator::new(name) else { return };
    for seed in 0..2 * seeds() {
        let mut chance = Chance(seed);
        let play = Play::new(&mut chance, (2 + seed as usize / 2 % 2, seed % 2 == 0), 10);
        let nodes = [0, 1].map(|_| Node::new(play.locals as u32, u64::MAX));
        let transfers = (0..play.ranks()).map(|rank| play.transfers(rank)).collect();
        let mut hosts = Ranks::new(seed, transfers, u64::MAX);
        hosts.pace = 1 + seed % 3;
        let works: Vec<_> =
            (0..play.ranks()).map(|rank| play.works(&mut chance, &nodes, &hosts, rank)).collect();
        let what = format!("seed {seed}");
        hosts.run_works(&emulator, &works, seed, &what);
        for rank in 0..play.ranks() {
            let of_node = nodes[rank / play.locals].status(rank % play.locals)[0];
            assert_eq!(
                (hosts.ranks[rank].status[0].load(Relaxed), of_node),
                (0, 0),
                "{what}: nobody gave up"
            );
        }
        nodes.iter().for_each(|node| node.check_guards(&what));
        play.check(&what);
    }
}

#[test]
fn a_launch_of_several_steps_ends_when_a_rank_of_the_node_or_another_node_does_not_come() {
    let name = "a_launch_of_several_steps_ends_when_a_rank_of_the_node_or_another_node_does_not_come";
    let Some(emulator) = Emulator::new(name) else { return };
    for is_of_node in [true, false] {
        let mut chance = Chance(3);
        let play = Play {
            acts: vec![Act::AllReduce, Act::ExchangeAndReduce, Act::AllReduce, Act::ExchangeAndReduce],
            ..Play::new(&mut chance, (2, true), 4)
        };
        let nodes = [0, 1].map(|_| Node::new(2, 1 << 20));
        let transfers = (0..4).map(|rank| play.transfers(rank)).collect();
        let mut hosts = Ranks::new(2, transfers, 1 << 20);
        let mut works = vec![Vec::new(); 4];
        // Whoever comes does two at once: the node's first, and the transfer first.
        for rank in if is_of_node { [0, 2] } else { [0, 1] } {
            let transfers = play.transfers(rank);
            let of = |(number, act, is_node_first)| {
                let node = play.node_step(&nodes, rank, act);
                let steps = ShortSteps { transfer: &transfers[number], node, is_node_first };
                Work::ShortSteps(Box::new(steps.told(hosts.told(rank, number))), steps.element())
            };
            works[rank] = [(0, 0, true), (1, 2, false)].into_iter().map(of).collect();
        }
        hosts.run_works(&emulator, &works, 5, "it ends");
        let cause = |words: &[u32]| (words[status::CAUSE], words[status::PEER]);
        let of_host: Vec<_> = hosts.ranks[0].status.iter().map(|word| word.load(Relaxed)).collect();
        if is_of_node {
            assert_eq!(cause(nodes[0].status(0)), (status::CAUSE_TIMEOUT, 1));
        } else {
            assert_eq!(cause(&of_host), (status::CAUSE_TIMEOUT, 2));
            // The node's ranks did their steps, also behind it.
            assert_eq!(nodes[0].status(0)[status::CAUSE], 0);
        }
    }
}
