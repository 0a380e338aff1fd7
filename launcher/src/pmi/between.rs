//! What goes between this server and those of the job's other nodes.

use efarun_wire::message::{GatherKey, OobDown, OobUp};
use efarun_wire::{NodeId, Rank};

use super::peers::{self, Answer, Ask, Question};
use super::request::{Address, Fault, Reply};
use super::server::{Action, Server};
use crate::exchange::{self, Family, NAME_KEEPER};

impl Server {
    /// Handles what the head passes on.
    ///
    /// # Errors
    ///
    /// Gives back what is not for this server.
    pub fn hear(&mut self, down: OobDown) -> Result<Vec<Action>, OobDown> {
        if !exchange::is_for(&down, self.node, Family::Pmi) {
            return Err(down);
        }
        Ok(match down {
            OobDown::Gathered { key, blobs } => self.gathered(&key, &blobs),
            OobDown::Request { from, token, body, .. } => {
                vec![Action::Up(match exchange::decode(&body) {
                    Some(question) => exchange::reply(from, token, &self.find(&question)),
                    None => {
                        let body = Err("this is no question for a PMI server".to_owned());
                        OobUp::Reply { to: from, token, body }
                    }
                })]
            }
            OobDown::Reply { token, body, .. } => self.answered(token, &body),
            OobDown::Event(_) => Vec::new(),
        })
    }

    fn gathered(&mut self, key: &GatherKey, blobs: &[(Rank, Vec<u8>)]) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(generation) = peers::generation_of(&key.id) else { return actions };
        let space = self.spaces.entry(generation).or_default();
        for (rank, blob) in blobs.iter().filter(|(rank, _)| !self.clients.contains_key(rank)) {
            let pairs = peers::pairs_of(blob).unwrap_or_default();
            if pairs.iter().any(|(name, value)| space.put(name, value).is_err()) {
                let how = "put more keys than a node of the job has room for".to_owned();
                actions.push(Action::Broke { rank: *rank, how });
            }
        }
        self.complete(key, &mut actions);
        actions
    }

    /// An error is a question that could not be asked.
    fn answered(&mut self, token: u64, body: &Result<Vec<u8>, String>) -> Vec<Action> {
        let Some((ask, next)) = self.asks.answered(token) else { return Vec::new() };
        let mut actions: Vec<Action> = next.map(Action::Up).into_iter().collect();
        let answer = body.as_ref().ok().and_then(|body| exchange::decode(body)).flatten();
        self.found(ask, answer, &mut actions);
        actions
    }

    /// Tells a rank what was found for it, or looks on.
    fn found(&mut self, mut ask: Ask, answer: Answer, actions: &mut Vec<Action>) {
        if answer.is_none()
            && let Some(node) = ask.nodes.pop()
        {
            return self.ask(node, ask, actions);
        }
        if let Some(client) = self.clients.get_mut(&ask.address.rank) {
            client.open_asks -= 1;
        }
        let refused = |why| answer.as_ref().map(|_| ()).ok_or(why);
        let reply = match &ask.question {
            Question::Key { .. } => Reply::Get(answer),
            Question::Lookup { .. } => Reply::Lookup(answer),
            Question::Publish { .. } => Reply::Publish(refused(PUBLISHED_ALREADY)),
            Question::Unpublish { .. } => Reply::Unpublish(refused(NOT_PUBLISHED)),
        };
        self.reply(&ask.address, &reply, actions);
    }

    /// Asks the node that keeps names.
    pub(super) fn at_name_keeper(
        &mut self,
        address: Address,
        question: Question,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        self.look(address, question, vec![NAME_KEEPER], actions)
    }

    /// Looks for something at these nodes, one after the other; at this one it is looked for at once.
    pub(super) fn look(
        &mut self,
        address: Address,
        question: Question,
        mut nodes: Vec<NodeId>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        let client = self.clients.get_mut(&address.rank).expect("it is asking");
        client.open_asks += 1;
        if client.open_asks > MAX_OPEN_ASKS {
            nodes.clear();
        }
        let first = nodes.pop();
        let ask = Ask { address, question, nodes };
        match first {
            Some(node) => self.ask(node, ask, actions),
            None => self.found(ask, None, actions),
        }
        Ok(())
    }

    fn ask(&mut self, node: NodeId, ask: Ask, actions: &mut Vec<Action>) {
        if node == self.node {
            let answer = self.find(&ask.question);
            return self.found(ask, answer, actions);
        }
        match self.asks.ask(node, exchange::encode(&ask.question), ask) {
            Ok(said) => actions.extend(said.map(Action::Up)),
            Err(unasked) => self.found(unasked, None, actions),
        }
    }

    fn find(&mut self, question: &Question) -> Answer {
        let done = |is_done: bool| is_done.then(Vec::new);
        match question {
            Question::Key { generation, key } => self.spaces.get(generation)?.value(key).map(<[u8]>::to_vec),
            Question::Publish { name, port } => {
                let has_room = name.len() + port.len() <= MAX_PUBLISHED_BYTES;
                done(has_room && self.names.publish(vec![(name.clone(), port.clone())]))
            }
            Question::Unpublish { name } => done(self.names.unpublish(std::slice::from_ref(name))),
            Question::Lookup { name } => self.names.find(std::slice::from_ref(name)).pop(),
        }
    }
}

const PUBLISHED_ALREADY: &str = "published_already";
const NOT_PUBLISHED: &str = "not_published";
/// A name and its port, together.
const MAX_PUBLISHED_BYTES: usize = 2048;
/// What a rank may have others asked for at a time.
const MAX_OPEN_ASKS: usize = 16;
