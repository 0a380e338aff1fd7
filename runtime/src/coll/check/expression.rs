//! What an element is made of.
//!
//! An expression is an input of a rank at a position, or two expressions reduced. Equal expressions are one number,
//! so that comparing all ranks' results is comparing numbers. Left and right count: floats are commutative, but a
//! NaN's bits need not be.

use std::collections::HashMap;

use efarun_wire::Rank;

use crate::coll::collective::Contributors;
use crate::coll::fault::Problem;

/// An expression, as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Expression(u32);

/// All expressions of a check.
#[derive(Debug)]
pub(super) struct Expressions {
    world_size: u32,
    nodes: Vec<Node>,
    inputs: HashMap<(Rank, usize), Expression>,
    reduced: HashMap<(Expression, Expression), Expression>,
}

#[derive(Debug)]
struct Node {
    element: usize,
    /// One bit per rank whose input is in it.
    contributors: Vec<u64>,
}

impl Node {
    fn has(&self, rank: Rank) -> bool {
        self.contributors[rank.index() / 64] >> (rank.index() % 64) & 1 == 1
    }
}

impl Expressions {
    pub(super) fn new(world_size: u32) -> Self {
        Expressions { world_size, nodes: Vec::new(), inputs: HashMap::new(), reduced: HashMap::new() }
    }

    /// A rank's input at a position.
    pub(super) fn input(&mut self, rank: Rank, element: usize) -> Expression {
        if let Some(&known) = self.inputs.get(&(rank, element)) {
            return known;
        }
        let mut contributors = vec![0; (self.world_size as usize).div_ceil(64)];
        contributors[rank.index() / 64] = 1 << (rank.index() % 64);
        let made = self.add(Node { element, contributors });
        self.inputs.insert((rank, element), made);
        made
    }

    /// Two expressions reduced, in this order.
    pub(super) fn reduce(&mut self, left: Expression, right: Expression) -> Result<Expression, Problem> {
        if let Some(&known) = self.reduced.get(&(left, right)) {
            return Ok(known);
        }
        let (one, other) = (self.node(left), self.node(right));
        if one.element != other.element {
            return Err(Problem::WrongElement { element: one.element, found: other.element });
        }
        let words = one.contributors.iter().zip(&other.contributors);
        if let Some((word, bits)) =
            words.clone().map(|(one, other)| one & other).enumerate().find(|both| both.1 != 0)
        {
            let contributor = Rank(word as u32 * 64 + bits.trailing_zeros());
            return Err(Problem::Twice { element: one.element, contributor });
        }
        let contributors = words.map(|(one, other)| one | other).collect();
        let made = Node { element: one.element, contributors };
        let made = self.add(made);
        self.reduced.insert((left, right), made);
        Ok(made)
    }

    /// Says what an expression lacks of being these ranks' inputs at this position, or has beyond.
    pub(super) fn check_contributors(
        &self,
        value: Expression,
        element: usize,
        expected: Contributors,
    ) -> Result<(), Problem> {
        let node = self.node(value);
        if node.element != element {
            return Err(Problem::WrongElement { element, found: node.element });
        }
        let belongs = |rank| match expected {
            Contributors::All => true,
            Contributors::Only(one) => rank == one,
        };
        for contributor in (0..self.world_size).map(Rank) {
            match (node.has(contributor), belongs(contributor)) {
                (false, true) => return Err(Problem::Missing { element, contributor }),
                (true, false) => return Err(Problem::Foreign { element, contributor }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Says whether a reduced expression has every rank in it, if that is not what is said of it.
    pub(super) fn check_completion(&self, value: Expression, completes: bool) -> Result<(), Problem> {
        let node = self.node(value);
        let contributors = node.contributors.iter().map(|word| word.count_ones()).sum();
        if (contributors == self.world_size) == completes {
            return Ok(());
        }
        Err(Problem::Completion { element: node.element, contributors, completes })
    }

    fn node(&self, expression: Expression) -> &Node {
        &self.nodes[expression.0 as usize]
    }

    fn add(&mut self, node: Node) -> Expression {
        let number = u32::try_from(self.nodes.len()).expect("fewer expressions than a check has memory for");
        self.nodes.push(node);
        Expression(number)
    }
}
