//! Which network cards are nearest to a GPU.
//!
//! Two devices are the nearer, the longer the part of their paths that they share: the same switch, then the same root.
//! On p4d the switches are hidden from the guest, and what is left is the root bus. Where no path is shared, the NUMA
//! node decides. Cards that are equally near to several GPUs are shared out among these, so that each has its own.

use efarun_wire::facts::{Device, Topology};

/// How near two devices are; the greater, the nearer.
type Nearness = (usize, bool);

/// The cards of one of the GPUs, by name.
pub(super) fn nics_of_gpu(topology: &Topology, gpu: usize) -> Vec<String> {
    let gpus = &topology.gpus;
    let nearest = |gpu: &Device| topology.efa_devices.iter().map(|nic| nearness(gpu, nic)).max();
    let near_to = |gpu: &Device| {
        let most = nearest(gpu);
        let near =
            topology.efa_devices.iter().enumerate().filter(move |(_, nic)| Some(nearness(gpu, nic)) == most);
        near.map(|(index, _)| index).collect::<Vec<_>>()
    };
    let mine = near_to(&gpus[gpu]);
    // GPUs with the same cards are neighbours, and share them out.
    let neighbours: Vec<usize> = (0..gpus.len()).filter(|other| near_to(&gpus[*other]) == mine).collect();
    let place = neighbours.iter().position(|other| *other == gpu).unwrap_or(0);
    let name = |index: &usize| topology.efa_devices[*index].name.clone();
    if mine.len() < neighbours.len() {
        // Fewer cards than GPUs: neighbours have one together.
        return mine.get(place * mine.len() / neighbours.len()).map(name).into_iter().collect();
    }
    let share = |at: usize| at * neighbours.len() / mine.len() == place;
    mine.iter().enumerate().filter(|(at, _)| share(*at)).map(|(_, index)| name(index)).collect()
}

fn nearness(a: &Device, b: &Device) -> Nearness {
    // The last part is the device itself.
    let bridges = |device: &Device| -> Vec<String> {
        let parts: Vec<String> = device.pci_path.split('/').map(str::to_owned).collect();
        parts[..parts.len().saturating_sub(1)].to_vec()
    };
    let shared = bridges(a).iter().zip(&bridges(b)).take_while(|(a, b)| a == b).count();
    (shared, a.numa.is_some() && a.numa == b.numa)
}
