//! Tests of schedules as a whole: run on the transport double, checked, simulated, and each of them with a step
//! missing.

mod by_node;
mod explore;
mod proof;
mod run;
mod sabotage;
mod scale;
mod scripted;
mod world;
