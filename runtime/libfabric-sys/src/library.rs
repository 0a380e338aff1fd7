//! Finding and opening `libfabric.so.1`.
//!
//! # Safety
//!
//! Symbols are looked up with the symbol version whose C prototype they are declared with here, which is what the
//! dynamic linker would have done for a linked program. The library is never closed again: providers leave threads
//! and exit handlers behind, and every function pointer taken from it stays valid for the life of the process.
#![expect(unsafe_code, reason = "dlopen and dlvsym; the module's Safety paragraph says why it is sound")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;

use crate::info::{fi_fabric_attr, fi_info};
use crate::object::fid_fabric;

/// The exported functions of an opened libfabric, with C's names and signatures.
#[derive(Clone, Debug)]
pub struct Library {
    path: String,
    version: Version,
    pub fi_getinfo: GetInfo,
    pub fi_freeinfo: FreeInfo,
    pub fi_dupinfo: DupInfo,
    pub fi_fabric: OpenFabric,
    pub fi_strerror: StrError,
    pub fi_tostr: ToStr,
}

impl Library {
    /// Opens the libfabric that `LD_LIBRARY_PATH` or the system gives, else the one in AWS's folders.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] says where was looked, or what is wrong with what was found.
    pub fn open() -> Result<Library, LibraryError> {
        let mut first_cause = None;
        for name in std::iter::once(LIBRARY_NAME.to_owned())
            .chain(FALLBACK_FOLDERS.iter().map(|folder| format!("{folder}/{LIBRARY_NAME}")))
        {
            match Handle::open(&name) {
                Ok(handle) => return Library::from_handle(&handle, &name),
                Err(cause) => first_cause = first_cause.or(Some(cause)),
            }
        }
        let set = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        Err(LibraryError::NotFound {
            library_path: if set.is_empty() { "not set".into() } else { set },
            cause: first_cause.unwrap_or_default(),
        })
    }

    /// The file that was opened.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What `fi_version` says.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The API version to ask `fi_getinfo` for: the library's own, 1.20 at most, because the structs of this crate
    /// were written for no later one.
    pub fn api_version(&self) -> u32 {
        self.version.number().min(NEWEST_API.number())
    }

    fn from_handle(handle: &Handle, name: &str) -> Result<Library, LibraryError> {
        let symbol = handle.symbol(name, c"fi_version", c"FABRIC_1.0")?;
        // SAFETY: `uint32_t fi_version(void)` since FABRIC_1.0.
        let fi_version = unsafe { std::mem::transmute::<*mut c_void, GetVersion>(symbol) };
        let path = path_of(fi_version as *const c_void).unwrap_or_else(|| name.to_owned());
        // SAFETY: the function takes nothing and only returns a number.
        let version = Version::from_number(unsafe { fi_version() });
        if version < OLDEST {
            return Err(LibraryError::TooOld { path, version });
        }
        let symbol = |symbol: &CStr, abi: &CStr| handle.symbol(&path, symbol, abi);
        // SAFETY: each prototype is that of the 1.17 headers, whose symbol versions these are (the default versions
        // of the 1.17 library); a library keeps the meaning of a symbol version for ever.
        unsafe {
            Ok(Library {
                fi_getinfo: std::mem::transmute::<*mut c_void, GetInfo>(symbol(
                    c"fi_getinfo",
                    c"FABRIC_1.3",
                )?),
                fi_freeinfo: std::mem::transmute::<*mut c_void, FreeInfo>(symbol(
                    c"fi_freeinfo",
                    c"FABRIC_1.3",
                )?),
                fi_dupinfo: std::mem::transmute::<*mut c_void, DupInfo>(symbol(
                    c"fi_dupinfo",
                    c"FABRIC_1.3",
                )?),
                fi_fabric: std::mem::transmute::<*mut c_void, OpenFabric>(symbol(
                    c"fi_fabric",
                    c"FABRIC_1.1",
                )?),
                fi_strerror: std::mem::transmute::<*mut c_void, StrError>(symbol(
                    c"fi_strerror",
                    c"FABRIC_1.0",
                )?),
                fi_tostr: std::mem::transmute::<*mut c_void, ToStr>(symbol(c"fi_tostr", c"FABRIC_1.0")?),
                path: path.clone(),
                version,
            })
        }
    }
}

type GetVersion = unsafe extern "C" fn() -> u32;
type GetInfo =
    unsafe extern "C" fn(u32, *const c_char, *const c_char, u64, *const fi_info, *mut *mut fi_info) -> c_int;
type FreeInfo = unsafe extern "C" fn(*mut fi_info);
type DupInfo = unsafe extern "C" fn(*const fi_info) -> *mut fi_info;
type OpenFabric = unsafe extern "C" fn(*mut fi_fabric_attr, *mut *mut fid_fabric, *mut c_void) -> c_int;
type StrError = unsafe extern "C" fn(c_int) -> *const c_char;
type ToStr = unsafe extern "C" fn(*const c_void, c_uint) -> *mut c_char;

/// Why there is no usable libfabric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// There is none.
    #[error(
        "libfabric.so.1 could not be opened from LD_LIBRARY_PATH ({library_path}), the system's library folders, \
         /opt/amazon/efa/lib64 or /opt/amazon/efa/lib: {cause}: install it (Debian and Ubuntu: `apt-get install \
         libfabric1`), or name its folder in LD_LIBRARY_PATH"
    )]
    NotFound {
        /// The variable's value.
        library_path: String,
        /// What the dynamic linker said.
        cause: String,
    },
    /// It is older than any version that this crate was made for.
    #[error(
        "libfabric {version} at {path} is too old, {OLDEST} is the least that works: install a newer one, and name its \
         folder in LD_LIBRARY_PATH"
    )]
    TooOld {
        /// The file.
        path: String,
        /// Its version.
        version: Version,
    },
    /// It does not export what every libfabric exports.
    #[error(
        "{path} is not a complete libfabric: it has no {symbol}@{abi}: another library of that name comes first in \
         LD_LIBRARY_PATH"
    )]
    MissingSymbol {
        /// The file.
        path: String,
        /// The function.
        symbol: String,
        /// Its symbol version.
        abi: String,
    },
}

/// A version of the library or of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 1 or 2 so far.
    pub major: u16,
    /// The release within it.
    pub minor: u16,
}

impl Version {
    /// From libfabric's own form.
    pub const fn from_number(number: u32) -> Version {
        Version { major: (number >> 16) as u16, minor: (number & 0xFFFF) as u16 }
    }

    /// In libfabric's own form.
    pub const fn number(self) -> u32 {
        ((self.major as u32) << 16) | self.minor as u32
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

struct Handle(*mut c_void);

impl Handle {
    fn open(name: &str) -> Result<Handle, String> {
        let name = CString::new(name).expect("names of this file contain no NUL");
        // SAFETY: the name is a C string. Loading runs the library's constructors: it is libfabric by its name, and
        // whoever sets LD_LIBRARY_PATH runs code in this process anyway.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() { Err(last_linker_error()) } else { Ok(Handle(handle)) }
    }

    fn symbol(&self, path: &str, symbol: &CStr, abi: &CStr) -> Result<*mut c_void, LibraryError> {
        // SAFETY: the handle is open for ever and both names are C strings.
        let address = unsafe { libc::dlvsym(self.0, symbol.as_ptr(), abi.as_ptr()) };
        if address.is_null() {
            return Err(LibraryError::MissingSymbol {
                path: path.to_owned(),
                symbol: symbol.to_string_lossy().into_owned(),
                abi: abi.to_string_lossy().into_owned(),
            });
        }
        Ok(address)
    }
}

fn last_linker_error() -> String {
    // SAFETY: takes nothing; the text is the calling thread's own until its next dl call, and is copied before.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the dynamic linker does not say why".into();
    }
    // SAFETY: not null, hence a C string as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The file that holds a function.
fn path_of(function: *const c_void) -> Option<String> {
    // SAFETY: Dl_info is pointers only.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about, and `found` is ours.
    if unsafe { libc::dladdr(function, &raw mut found) } == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name is the linker's C string and stays as long as the library, which is for ever.
    Some(unsafe { CStr::from_ptr(found.dli_fname) }.to_string_lossy().into_owned())
}

const LIBRARY_NAME: &str = "libfabric.so.1";
const FALLBACK_FOLDERS: [&str; 2] = ["/opt/amazon/efa/lib64", "/opt/amazon/efa/lib"];
const OLDEST: Version = Version { major: 1, minor: 17 };
const NEWEST_API: Version = Version { major: 1, minor: 20 };
