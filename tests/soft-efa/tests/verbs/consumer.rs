//! A program on verbs: queue pairs of this process's devices, each with all that it needs.
//!
//! # Safety
//!
//! Objects are those of the library's own calls, used as the manual pages say, and live as long as the process.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use softefa::abi::*;
use softefa::exports::{completion, device, memory, pair};

/// An open device.
#[derive(Clone, Copy)]
pub(crate) struct Device(pub(crate) *mut ibv_context);

/// A queue pair with its domain and its completion queue.
pub(crate) struct Pair {
    pub(crate) context: *mut ibv_context,
    pub(crate) pd: *mut ibv_pd,
    pub(crate) cq: *mut ibv_cq_ex,
    qp: *mut ibv_qp,
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) id: u64,
    /// EFA's code.
    pub(crate) code: u32,
    pub(crate) opcode: u32,
    pub(crate) len: u32,
    pub(crate) immediate: u32,
    /// The number of its sender's address handle.
    pub(crate) sender: u32,
    pub(crate) is_unsolicited: bool,
}

/// A piece of registered memory.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) key: u32,
}

/// What is to be done with a piece.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    Send,
    Read(Piece),
    Write(Piece),
    /// With this immediate data.
    WriteWith(Piece, u32),
}

impl Device {
    /// A device of this process; see the table in `main.rs`.
    pub(crate) fn open(number: usize) -> Device {
        settings();
        // SAFETY: the list is as long as it says.
        let context = unsafe {
            let mut count = 0;
            let list = device::ibv_get_device_list(&raw mut count);
            assert!(!list.is_null() && number < count as usize, "{count} devices");
            let context = device::ibv_open_device(*list.add(number));
            device::ibv_free_device_list(list);
            context
        };
        assert!(!context.is_null());
        Device(context)
    }

    pub(crate) fn gid(self) -> ibv_gid {
        let mut gid = ibv_gid { raw: [0; 16] };
        // SAFETY: an open device.
        assert_eq!(unsafe { device::ibv_query_gid(self.0, 1, 0, &raw mut gid) }, 0);
        gid
    }

    pub(crate) fn domain(self) -> *mut ibv_pd {
        // SAFETY: an open device.
        let pd = unsafe { memory::ibv_alloc_pd(self.0) };
        assert!(!pd.is_null());
        pd
    }

    /// A queue pair that takes messages.
    pub(crate) fn pair(self, pd: *mut ibv_pd, takes_unsolicited: bool) -> Pair {
        // SAFETY: integers, null pointers and absent functions.
        let (mut cq_attr, mut attr, mut moved): (ibv_cq_init_attr_ex, ibv_qp_init_attr_ex, ibv_qp_attr) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        cq_attr.cqe = 64;
        let flags = EFADV_WC_EX_WITH_SGID | EFADV_WC_EX_WITH_IS_UNSOLICITED;
        let mut efa_cq = efadv_cq_init_attr { comp_mask: 0, wc_flags: flags };
        // SAFETY: an open device, and attributes as long as it says.
        let cq = unsafe {
            completion::efadv_create_cq(
                self.0,
                &raw mut cq_attr,
                &raw mut efa_cq,
                size_of::<efadv_cq_init_attr>() as u32,
            )
        };
        assert!(!cq.is_null());
        attr.send_cq = cq.cast();
        attr.recv_cq = cq.cast();
        attr.pd = pd;
        attr.qp_type = IBV_QPT_DRIVER;
        attr.cap = ibv_qp_cap {
            max_send_wr: 16,
            max_recv_wr: 16,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: 32,
        };
        let mut efa = efadv_qp_init_attr {
            comp_mask: 0,
            driver_qp_type: EFADV_QP_DRIVER_TYPE_SRD,
            flags: if takes_unsolicited { EFADV_QP_FLAGS_UNSOLICITED_WRITE_RECV } else { 0 },
            sl: 0,
            reserved: [0],
        };
        // SAFETY: as above.
        let qp = unsafe {
            pair::efadv_create_qp_ex(
                self.0,
                &raw mut attr,
                &raw mut efa,
                size_of::<efadv_qp_init_attr>() as u32,
            )
        };
        assert!(!qp.is_null());
        moved.qp_state = IBV_QPS_RTS;
        moved.qkey = QKEY;
        moved.rnr_retry = 3;
        let mask = IBV_QP_STATE | IBV_QP_QKEY | IBV_QP_RNR_RETRY;
        // SAFETY: a queue pair of ours.
        assert_eq!(unsafe { pair::ibv_modify_qp(qp, &raw mut moved, mask as c_int) }, 0);
        Pair { context: self.0, pd, cq, qp }
    }
}

impl Pair {
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: a queue pair of ours.
        unsafe { (*self.qp).qp_num }
    }

    /// Registers memory for whatever the device can do with it.
    pub(crate) fn register(&self, address: *mut c_void, len: usize) -> Option<Piece> {
        // SAFETY: the device checks the memory.
        let mr = unsafe { memory::ibv_reg_mr(self.pd, address, len, ALL_ACCESS) };
        // SAFETY: none, or a region.
        unsafe { mr.as_ref() }.map(|mr| Piece { address: address as u64, len: len as u32, key: mr.lkey })
    }

    /// Registered memory with these bytes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Piece {
        let memory: &'static mut [u8] = Box::leak(bytes.to_vec().into_boxed_slice());
        self.register(memory.as_mut_ptr().cast(), memory.len()).unwrap()
    }

    /// A handle to a device, of a domain.
    pub(crate) fn handle(pd: *mut ibv_pd, gid: ibv_gid) -> *mut ibv_ah {
        // SAFETY: integers.
        let mut attr: ibv_ah_attr = unsafe { std::mem::zeroed() };
        attr.grh.dgid = gid;
        attr.is_global = 1;
        attr.port_num = 1;
        // SAFETY: a domain of ours.
        let ah = unsafe { memory::ibv_create_ah(pd, &raw mut attr) };
        assert!(!ah.is_null());
        ah
    }

    pub(crate) fn post(&self, ah: *mut ibv_ah, to: &Pair, piece: Piece, operation: Operation) {
        // SAFETY: a queue pair of ours and its own functions, in verbs' order.
        unsafe {
            let qp = pair::ibv_qp_to_qp_ex(self.qp);
            (*qp).wr_start.unwrap()(qp);
            (*qp).wr_id = piece.address;
            match operation {
                Operation::Send => (*qp).wr_send.unwrap()(qp),
                Operation::Read(from) => (*qp).wr_rdma_read.unwrap()(qp, from.key, from.address),
                Operation::Write(into) => (*qp).wr_rdma_write.unwrap()(qp, into.key, into.address),
                Operation::WriteWith(into, data) => {
                    (*qp).wr_rdma_write_imm.unwrap()(qp, into.key, into.address, data);
                }
            }
            (*qp).wr_set_ud_addr.unwrap()(qp, ah, to.number(), QKEY);
            (*qp).wr_set_sge.unwrap()(qp, piece.key, piece.address, piece.len);
            assert_eq!((*qp).wr_complete.unwrap()(qp), 0);
        }
    }

    pub(crate) fn receive(&self, piece: Piece) {
        let mut sge = ibv_sge { addr: piece.address, length: piece.len, lkey: piece.key };
        let mut request =
            ibv_recv_wr { wr_id: piece.address, next: null_mut(), sg_list: &raw mut sge, num_sge: 1 };
        let mut bad = null_mut();
        // SAFETY: a queue pair of ours, and a list of one.
        unsafe {
            let post = (*self.context).ops.post_recv.unwrap();
            assert_eq!(post(self.qp, &raw mut request, &raw mut bad), 0);
        }
    }

    /// Takes the queue pair away; what was sent to it stays in its completion queue.
    pub(crate) fn destroy(self) {
        // SAFETY: a queue pair of ours, which nobody uses after this.
        assert_eq!(unsafe { pair::ibv_destroy_qp(self.qp) }, 0);
    }

    /// The next completion.
    pub(crate) fn completion(&self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.poll() {
                return completion;
            }
            assert!(Instant::now() < deadline, "a completion within {PATIENCE:?}");
        }
    }

    /// A completion, if there is one.
    pub(crate) fn poll(&self) -> Option<Completion> {
        let cq = self.cq;
        // SAFETY: a queue of ours and its own functions, in verbs' order.
        unsafe {
            if (*cq).start_poll.unwrap()(cq, null_mut()) != 0 {
                return None;
            }
            let efadv = completion::efadv_cq_from_ibv_cq_ex(cq);
            let completion = Completion {
                id: (*cq).wr_id,
                code: (*cq).read_vendor_err.unwrap()(cq),
                opcode: (*cq).read_opcode.unwrap()(cq),
                len: (*cq).read_byte_len.unwrap()(cq),
                immediate: (*cq).read_imm_data.unwrap()(cq),
                sender: (*cq).read_slid.unwrap()(cq),
                is_unsolicited: (*efadv).wc_is_unsolicited.unwrap()(efadv),
            };
            (*cq).end_poll.unwrap()(cq);
            Some(completion)
        }
    }
}

impl Piece {
    /// What is in it.
    pub(crate) fn get(self) -> Vec<u8> {
        // SAFETY: leaked memory of this process; nothing is on its way to it when a test looks.
        unsafe { std::slice::from_raw_parts(self.address as *const u8, self.len as usize) }.to_vec()
    }

    /// Its beginning.
    pub(crate) fn first(self, len: u32) -> Piece {
        Piece { len, ..self }
    }
}

/// A file whose existence is a fault; see [`settings`].
pub(crate) fn trigger(name: &str) -> PathBuf {
    settings().join(name)
}

/// Says once what this process's devices are, and gives the folder of their triggers.
fn settings() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("verbs-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let fault = |name: &str| format!("{name}@{}/{name}", folder.display());
        let faults = format!("{},{}", fault("link-down=1"), fault("device-lost=2"));
        for (name, value) in [
            ("SOFTEFA_NICS", "3"),
            ("SOFTEFA_DEVICE", "p5"),
            ("SOFTEFA_FABRIC", &format!("verbs-{}", std::process::id())),
            ("SOFTEFA_FAULT", &faults),
        ] {
            // SAFETY: before the first device is asked for, by whoever comes first; nobody else reads these.
            unsafe { std::env::set_var(name, value) };
        }
        folder
    })
}

/// What no step takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Local write, remote write, remote read.
pub(crate) const ALL_ACCESS: c_int = 0b111;
const QKEY: u32 = 0x11;
