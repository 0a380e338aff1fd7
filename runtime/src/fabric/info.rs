//! Asking what providers offer.
//!
//! # Safety
//!
//! An `fi_info` and everything it points to was allocated by the library (or is a string from `malloc` that the
//! library frees, in the hints) and is freed with its list, which every [`Info`] keeps alive. It is never written
//! after `fi_getinfo` returned it, so it may be read from any thread.
#![expect(unsafe_code, reason = "reads what C allocated; the module's Safety paragraph says why it is sound")]

use std::ffi::{CStr, CString, c_char};
use std::net::IpAddr;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use libfabric_sys as sys;
use libfabric_sys::fi_info;

use super::error::FabricError;
use super::library::Library;

/// What an endpoint must be able to do, on reliable datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Tagged messages.
    Tagged,
    /// Writes into a peer's memory that tell the peer so by 32 bits of data.
    Writes,
    /// Reads from peers' memory.
    Reads,
}

/// An endpoint that is looked for, with whatever memory modes the provider wants.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What it must be able to do.
    pub service: Service,
    /// The provider, by libfabric's name for it: `tcp`, `tcp;ofi_rxm`, `efa`.
    pub provider: &'a str,
    /// Its fabric, by name, where one provider has several: `efa`, `efa-direct`.
    pub fabric: Option<&'a str>,
    /// The address of ours that endpoints shall have, where the provider has IP addresses.
    pub source: Option<IpAddr>,
    /// Whether memory of GPUs is to be reached, too.
    pub gpu_memory: bool,
}

/// An endpoint that a provider offers. What it says is to be obeyed: modes that were not asked for are off, modes
/// that are on are demands.
#[derive(Clone, Debug)]
pub struct Info {
    list: Arc<List>,
    raw: NonNull<fi_info>,
    service: Service,
    gpu_memory: bool,
}

/// The card behind a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The kernel's name for it: `rdmap16s27`.
    pub name: String,
    /// Where it is on the PCI bus, as sysfs writes it: `0000:10:1b.0`; empty where the provider does not say.
    pub pci: String,
}

// SAFETY: see the module's Safety paragraph: immutable after fi_getinfo, freed once by its list.
unsafe impl Send for Info {}
// SAFETY: as above.
unsafe impl Sync for Info {}

impl Info {
    /// What the library offers for the request, best first; nothing is no error.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_getinfo`.
    pub fn query(library: &Library, request: &Request<'_>) -> Result<Vec<Info>, FabricError> {
        let hints = Hints::new(library, request)?;
        let node = request.source.map(|address| c_string(&address.to_string()));
        let flags = if node.is_some() { sys::FI_SOURCE | sys::FI_NUMERICHOST } else { 0 };
        let mut head = ptr::null_mut();
        // SAFETY: the strings and the hints outlive the call, the result goes into `head`.
        let code = unsafe {
            (library.fi_getinfo)(
                library.api_version(),
                node.as_ref().map_or(ptr::null(), |node| node.as_ptr()),
                ptr::null(),
                flags,
                hints.list.head.as_ptr(),
                &raw mut head,
            )
        };
        if code == -sys::FI_ENODATA {
            return Ok(Vec::new());
        }
        library.check("fi_getinfo", code)?;
        let Some(head) = NonNull::new(head) else { return Ok(Vec::new()) };
        let list = Arc::new(List { library: library.clone(), head });
        let mut found = Vec::new();
        let mut next = Some(head);
        while let Some(raw) = next {
            found.push(Info {
                list: list.clone(),
                raw,
                service: request.service,
                gpu_memory: request.gpu_memory,
            });
            // SAFETY: an element of the list, which is alive.
            next = NonNull::new(unsafe { raw.as_ref() }.next);
        }
        found.retain(|info| info.provider() == request.provider);
        Ok(found)
    }

    /// The library that offers it.
    pub fn library(&self) -> &Library {
        &self.list.library
    }

    /// The provider's name; of several, stacked, with a semicolon between them.
    pub fn provider(&self) -> &str {
        text(self.fabric_attr().prov_name)
    }

    /// The fabric's name: the subnet for tcp, `efa` or `efa-direct` for EFA.
    pub fn fabric_name(&self) -> &str {
        text(self.fabric_attr().name)
    }

    /// The domain's name: the interface or the device.
    pub fn domain_name(&self) -> &str {
        text(self.domain_attr().name)
    }

    /// The wire protocol and its version: endpoints that agree on both understand each other.
    pub fn protocol(&self) -> (u32, u32) {
        // SAFETY: fi_getinfo fills in all attributes, and the list is alive.
        let attr = unsafe { &*self.raw().ep_attr };
        (attr.protocol, attr.protocol_version)
    }

    /// What it was asked for.
    pub fn service(&self) -> Service {
        self.service
    }

    /// Whether it was asked to reach memory of GPUs.
    pub fn reaches_gpu_memory(&self) -> bool {
        self.gpu_memory
    }

    /// The card; none where the provider has no such thing.
    pub fn nic(&self) -> Option<Nic> {
        // SAFETY: absent or allocated with the info, as are its attributes.
        let nic = unsafe { self.raw().nic.as_ref() }?;
        // SAFETY: as above.
        let (device, bus) = unsafe { (nic.device_attr.as_ref()?, nic.bus_attr.as_ref()) };
        let pci = |bus: &sys::fi_bus_attr| {
            let sys::fi_pci_attr { domain_id, bus_id, device_id, function_id } = bus.pci;
            format!("{domain_id:04x}:{bus_id:02x}:{device_id:02x}.{function_id:x}")
        };
        Some(Nic { name: text(device.name).to_owned(), pci: bus.map(pci).unwrap_or_default() })
    }

    /// How many sends an endpoint takes before the first is complete.
    pub fn send_queue_len(&self) -> usize {
        // SAFETY: fi_getinfo fills in all attributes, and the list is alive.
        unsafe { &*self.raw().tx_attr }.size
    }

    /// Whether data that a write brings takes a posted receive.
    pub fn wants_receives_for_data(&self) -> bool {
        self.raw().mode & sys::FI_RX_CQ_DATA != 0
    }

    /// Whether it is an EFA device's.
    pub fn is_efa(&self) -> bool {
        self.provider() == "efa"
    }

    /// Whether memory must be registered also for plain sends and receives.
    pub fn wants_local_registration(&self) -> bool {
        self.domain_attr().mr_mode & sys::FI_MR_LOCAL != 0
    }

    /// Whether a region must be bound to its endpoint.
    pub(super) fn wants_bound_regions(&self) -> bool {
        self.domain_attr().mr_mode & sys::FI_MR_ENDPOINT != 0
    }

    pub(super) fn as_ptr(&self) -> *mut fi_info {
        self.raw.as_ptr()
    }

    fn raw(&self) -> &fi_info {
        // SAFETY: the list is alive as long as `self`, and nobody writes to it.
        unsafe { self.raw.as_ref() }
    }

    fn fabric_attr(&self) -> &sys::fi_fabric_attr {
        // SAFETY: fi_getinfo fills in all attributes, and the list is alive.
        unsafe { &*self.raw().fabric_attr }
    }

    fn domain_attr(&self) -> &sys::fi_domain_attr {
        // SAFETY: fi_getinfo fills in all attributes, and the list is alive.
        unsafe { &*self.raw().domain_attr }
    }
}

/// A list as the library made it.
#[derive(Debug)]
struct List {
    library: Library,
    head: NonNull<fi_info>,
}

// SAFETY: see the module's Safety paragraph; freeing may happen on any thread.
unsafe impl Send for List {}
// SAFETY: as above.
unsafe impl Sync for List {}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the list came from this library and nobody else frees it; every Info that looks into it holds it.
        unsafe { (self.library.fi_freeinfo)(self.head.as_ptr()) }
    }
}

/// The other direction of an `fi_info`: a list of one, filled in by us.
struct Hints {
    list: List,
}

impl Hints {
    fn new(library: &Library, request: &Request<'_>) -> Result<Hints, FabricError> {
        // SAFETY: fi_dupinfo(NULL) allocates an empty fi_info with all its attributes.
        let raw = unsafe { (library.fi_dupinfo)(ptr::null()) };
        let head =
            NonNull::new(raw).ok_or_else(|| library.error("fi_dupinfo", -(sys::FI_ENOMEM as isize)))?;
        let hints = Hints { list: List { library: library.clone(), head } };
        // SAFETY: the attributes were allocated with the info and nobody else knows of them; strings come from malloc,
        // since fi_freeinfo frees them.
        unsafe {
            let info = &mut *raw;
            (info.caps, info.mode) = match request.service {
                Service::Tagged => (sys::FI_MSG | sys::FI_TAGGED, sys::FI_CONTEXT | sys::FI_CONTEXT2),
                // A fabric that has writes asks for their modes also of who only reads.
                Service::Writes | Service::Reads => {
                    (sys::FI_MSG | sys::FI_RMA, sys::FI_CONTEXT | sys::FI_CONTEXT2 | sys::FI_RX_CQ_DATA)
                }
            };
            if request.gpu_memory {
                info.caps |= sys::FI_HMEM;
            }
            (*info.ep_attr).type_ = sys::FI_EP_RDM;
            let domain = &mut *info.domain_attr;
            // Who asks for the one without the other is offered nothing.
            domain.mr_mode = MEMORY_MODES | if request.gpu_memory { sys::FI_MR_HMEM } else { 0 };
            domain.threading = sys::FI_THREAD_SAFE;
            // Progress only from our own calls: a thread per endpoint of the provider's own would compete with the
            // ranks for their cores.
            domain.control_progress = sys::FI_PROGRESS_MANUAL;
            domain.data_progress = sys::FI_PROGRESS_MANUAL;
            let fabric = &mut *info.fabric_attr;
            fabric.prov_name = malloced(request.provider);
            if let Some(name) = request.fabric {
                fabric.name = malloced(name);
            }
        }
        Ok(hints)
    }
}

fn malloced(text: &str) -> *mut c_char {
    let text = c_string(text);
    // SAFETY: a C string; the copy is the caller's to free.
    unsafe { libc::strdup(text.as_ptr()) }
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).expect("NUL was taken out")
}

/// A string of an attribute; empty where there is none.
fn text<'a>(string: *const c_char) -> &'a str {
    if string.is_null() {
        return "";
    }
    // SAFETY: strings of attributes are C strings that live as long as their list; the callers above tie the result
    // to `&self`.
    unsafe { CStr::from_ptr(string) }.to_str().unwrap_or("")
}

const MEMORY_MODES: i32 = sys::FI_MR_LOCAL
    | sys::FI_MR_VIRT_ADDR
    | sys::FI_MR_ALLOCATED
    | sys::FI_MR_PROV_KEY
    | sys::FI_MR_ENDPOINT;
