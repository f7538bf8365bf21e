//! One file per container format. Each walks its container and hands members to `Walk::member`; none of them decides,
//! keeps state between files, or reads a decoder other than through the capped reader.

pub(crate) mod cab;
pub(crate) mod carrier;
pub(crate) mod cpio;
pub(crate) mod eml;
pub(crate) mod iso;
pub(crate) mod lzh;
pub(crate) mod lzw;
pub(crate) mod ole;
pub(crate) mod onenote;
pub(crate) mod package;
pub(crate) mod pdf;
pub(crate) mod rar;
pub(crate) mod rtf;
pub(crate) mod sevenz;
pub(crate) mod stream;
pub(crate) mod tar;
pub(crate) mod vba;
pub(crate) mod zip;
