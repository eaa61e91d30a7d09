//! From `.proto` files to descriptors.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor};
use prost_types::FileDescriptorSet;

use crate::OURS;

/// Vendored files that no contract imports but every client needs, because errors carry them.
const ALWAYS: [&str; 3] = ["google/rpc/status.proto", "google/rpc/error_details.proto", "google/rpc/code.proto"];

/// Packages that code is generated for. Of the other imports only the descriptors are kept.
const GENERATED: [&str; 3] = [OURS, "google.api", "google.rpc"];

/// All contracts, compiled.
pub struct Contracts {
    /// The descriptors, with custom options.
    pub pool: DescriptorPool,
    /// The same as an encoded `FileDescriptorSet`: imports included, source information of our own files only.
    pub bytes: Vec<u8>,
}

/// Compiles every `.proto` file under `root`, with imports from `includes`; `root` lies within one of those.
///
/// # Errors
///
/// Says which file could not be read or is wrong, and where.
pub fn compile(root: &Path, includes: &[PathBuf]) -> Result<Contracts> {
    let mut files = Vec::new();
    find(root, &mut files)?;
    files.sort();
    if files.is_empty() {
        bail!("no contracts under {}", root.display());
    }
    let mut compiler = protox::Compiler::new(includes).context("cannot start the proto compiler")?;
    compiler.include_imports(true).include_source_info(true);
    for file in &files {
        open(&mut compiler, file)?;
    }
    for name in ALWAYS {
        open(&mut compiler, Path::new(name))?;
    }
    let bytes = strip_source_info(&compiler.encode_file_descriptor_set(), |name| name.starts_with("sensormesh/"))?;
    let pool = DescriptorPool::decode(bytes.as_slice()).context("the compiled contracts do not form a whole")?;
    Ok(Contracts { pool, bytes })
}

fn open(compiler: &mut protox::Compiler, file: &Path) -> Result<()> {
    // the Debug form of a protox error points at the line
    compiler.open_file(file).map(drop).map_err(|e| anyhow::anyhow!("{}: {e:?}", file.display()))
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

impl Contracts {
    /// The files that code is generated for, and the well-known types, which prost looks into and writes nothing for.
    /// Messages that are kept as they stand on the wire are bytes here, which is the same on the wire.
    /// Options are lost here, which is why everything else reads `pool`.
    pub(crate) fn generated_files(&self) -> FileDescriptorSet {
        let mut file: Vec<_> = self
            .pool
            .file_descriptor_protos()
            .filter(|f| f.package() == "google.protobuf" || GENERATED.iter().any(|p| f.package().starts_with(p)))
            .cloned()
            .collect();
        let messages = file.iter_mut().flat_map(|file| {
            let package = file.package().to_owned();
            file.message_type.iter_mut().map(move |message| (format!("{package}.{}", message.name()), message))
        });
        for (name, message) in messages {
            let Some(known) = self.pool.get_message_by_name(&name) else { continue };
            for field in &mut message.field {
                if known.get_field_by_name(field.name()).is_some_and(|field| self.is_as_on_wire(&field)) {
                    field.set_type(prost_types::field_descriptor_proto::Type::Bytes);
                    field.type_name = None;
                }
            }
        }
        FileDescriptorSet { file }
    }

    /// Whether the messages of a field are kept as they stand on the wire.
    pub(crate) fn is_as_on_wire(&self, field: &FieldDescriptor) -> bool {
        let Some(extension) = self.pool.get_extension_by_name("sensormesh.options.v1.hint") else { return false };
        let options = field.options();
        let hint = options.get_extension(&extension);
        let set = hint.as_message().and_then(|hint| hint.get_field_by_name("as_on_wire")?.as_bool());
        set.unwrap_or_default()
    }

    /// The encoded descriptors without any source information.
    pub(crate) fn without_comments(&self) -> Result<Vec<u8>> {
        strip_source_info(&self.bytes, |_| false)
    }

    /// Every message that a Rust type is generated for.
    pub(crate) fn messages(&self) -> Vec<MessageDescriptor> {
        self.pool
            .all_messages()
            .filter(|m| !m.is_map_entry() && GENERATED.iter().any(|p| m.package_name().starts_with(p)))
            .collect()
    }
}

/// Removes the comments and positions of every file whose name `keep` does not want, byte for byte otherwise.
///
/// Works on the wire format, because decoding through prost would lose the custom options.
fn strip_source_info(set: &[u8], keep: impl Fn(&str) -> bool) -> Result<Vec<u8>> {
    const SOURCE_INFO: u32 = 9;
    let mut out = Vec::with_capacity(set.len());
    for file in fields(set)? {
        let name = prost_types::FileDescriptorProto::decode(file.content).context("not a file descriptor")?;
        let keep = keep(name.name());
        let mut body = Vec::with_capacity(file.content.len());
        for field in fields(file.content)?.iter().filter(|f| keep || f.tag != SOURCE_INFO) {
            body.extend_from_slice(field.whole);
        }
        encode_key(file.tag, WireType::LengthDelimited, &mut out);
        encode_varint(body.len() as u64, &mut out);
        out.extend_from_slice(&body);
    }
    Ok(out)
}

/// A field as it stands on the wire.
struct Field<'a> {
    tag: u32,
    whole: &'a [u8],
    content: &'a [u8],
}

fn fields(mut bytes: &[u8]) -> Result<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while bytes.has_remaining() {
        let start = bytes;
        let (tag, wire) = decode_key(&mut bytes)?;
        let length = match wire {
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut bytes)?)?,
            WireType::Varint => decode_varint(&mut bytes).map(|_| 0)?,
            _ => bail!("unexpected wire type in a descriptor"),
        };
        let (content, rest) = bytes.split_at_checked(length).context("truncated descriptor")?;
        bytes = rest;
        found.push(Field { tag, whole: &start[..start.len() - rest.len()], content });
    }
    Ok(found)
}
