//! What people read: ranks' output and the launcher's own words. Not landed yet.
