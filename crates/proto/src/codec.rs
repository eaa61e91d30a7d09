//! The codec that every generated client and server uses.

use std::marker::PhantomData;

use prost::Message;
use sensormesh_types::{Code, Error};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::Validate;

/// Protobuf that checks what arrives at a server against the rules of its contract.
///
/// A request that breaks a rule ends with INVALID_ARGUMENT, a `BadRequest` that names its fields and an `ErrorInfo` with
/// reason `INVALID_FIELD`, before the handler or, in a stream, the handler's next message. Answers are not checked.
#[derive(Clone, Debug)]
pub struct ValidatingCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ValidatingCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ValidatingCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Validate + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SizedEncoder<T>;
    type Decoder = ValidatingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        SizedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ValidatingDecoder(PhantomData)
    }
}

/// A buffer of a call while nothing is on its way: a stream that waits for hours holds two. It grows to what a message needs.
const BUFFER: usize = 512;
/// Messages that are ready are joined up to this size.
const JOINED: usize = 32 << 10;

/// The encoding half of [`ValidatingCodec`].
#[derive(Clone, Debug)]
pub struct SizedEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for SizedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, JOINED)
    }
}

/// The decoding half of [`ValidatingCodec`].
#[derive(Clone, Debug)]
pub struct ValidatingDecoder<U>(PhantomData<U>);

impl<U: Message + Default + Validate> Decoder for ValidatingDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = U::decode(buffer).map_err(malformed::<U>)?;
        if !U::ANSWER {
            message.validate().map_err(|fields| Status::from(Error::invalid_fields(fields)))?;
        }
        Ok(Some(message))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, JOINED)
    }
}

/// A request that is no protobuf is the caller's mistake; an answer that is none is ours.
fn malformed<U: Validate>(error: prost::DecodeError) -> Status {
    let error = if U::ANSWER {
        Error::internal(error)
    } else {
        Error::new(Code::Invalid, "MALFORMED_MESSAGE", error.to_string())
    };
    error.into()
}
