//! What calls give, as the kernel wants it: replies, flags, owners and times.

use crate::{
    error::{Error, Result},
    fs::{Access, Entry, Opened, timespec},
    overlay::Owner,
};
use fuser::{
    Errno, FopenFlags, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr, Request,
    TimeOrNow,
};
use rustix::fs::{Timespec, UTIME_NOW, UTIME_OMIT};

/// Inode numbers are never reused, so there is one generation.
pub(super) const GENERATION: Generation = Generation(0);

/// The errno of a failed call, which is logged here and nowhere else.
pub(super) fn errno(error: &Error, call: &'static str, number: u64) -> Errno {
    match error {
        Error::Remote(_) | Error::Deadline(_) | Error::Gone | Error::Internal(_) => {
            tracing::warn!(call, inode = number, %error, "failed");
        }
        Error::MalformedBinding(_) | Error::ForeignWorker(_) | Error::StaleBinding => {
            tracing::info!(call, inode = number, %error, "refused");
        }
        Error::Backing(_)
        | Error::NoName
        | Error::Taken
        | Error::NoInode(_)
        | Error::NoHandle(_)
        | Error::NotDirectory
        | Error::IsDirectory
        | Error::WorkerMade
        | Error::CrossesLayers
        | Error::Unsupported
        | Error::WriteOnly
        | Error::Reserved
        | Error::NoAttribute
        | Error::NotYet
        | Error::Full
        | Error::Crowded
        | Error::Replaced
        | Error::SmallBuffer => tracing::trace!(call, inode = number, %error, "failed"),
    }
    Errno::from_i32(error.errno().raw_os_error())
}

pub(super) fn answer_entry(
    result: Result<Entry>,
    reply: ReplyEntry,
    call: &'static str,
    number: u64,
) {
    match result {
        Ok(entry) => reply.entry(&entry.ttl, &entry.attr, GENERATION),
        Err(error) => reply.error(errno(&error, call, number)),
    }
}

pub(super) fn answer_attr(
    result: Result<Entry>,
    reply: ReplyAttr,
    call: &'static str,
    number: u64,
) {
    match result {
        Ok(entry) => reply.attr(&entry.ttl, &entry.attr),
        Err(error) => reply.error(errno(&error, call, number)),
    }
}

pub(super) fn answer_empty(result: Result<()>, reply: ReplyEmpty, call: &'static str, number: u64) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error, call, number)),
    }
}

pub(super) fn answer_xattr(result: Result<Vec<u8>>, size: u32, reply: ReplyXattr, number: u64) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => {
            reply.error(errno(&Error::SmallBuffer, "getxattr", number));
        }
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error, "getxattr", number)),
    }
}

pub(super) fn flags_of(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    match opened.access {
        Access::Passthrough(_) | Access::Cached { keep: false } => {}
        Access::Cached { keep: true } => flags |= FopenFlags::FOPEN_KEEP_CACHE,
        Access::Direct => flags |= FopenFlags::FOPEN_DIRECT_IO,
    }
    if opened.remote {
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    flags
}

pub(super) fn owner(request: &Request) -> Owner {
    Owner::new(request.uid(), request.gid())
}

pub(super) fn stamp(time: Option<TimeOrNow>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match time {
        Some(TimeOrNow::SpecificTime(time)) => timespec(time),
        Some(TimeOrNow::Now) => special(UTIME_NOW),
        None => special(UTIME_OMIT),
    }
}
