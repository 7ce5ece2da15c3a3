//! The fields of `sentencepiece_model.proto` that tokenizing needs, read from the protobuf wire format.

/// One vocabulary entry; its id is its position.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ModelType {
    Unigram,
    Bpe,
    Word,
    Char,
}

impl ModelType {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unigram => "unigram",
            Self::Bpe => "BPE",
            Self::Word => "word",
            Self::Char => "character",
        }
    }
}

#[derive(Debug)]
pub(super) struct TrainerSpec {
    pub(super) model_type: ModelType,
    pub(super) byte_fallback: bool,
    pub(super) whitespace_suffix: bool,
    pub(super) unk_surface: String,
    pub(super) bos_id: i32,
    pub(super) eos_id: i32,
    pub(super) pad_id: i32,
}

#[derive(Debug)]
pub(super) struct NormalizerSpec {
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
    pub(super) escape_whitespaces: bool,
}

#[derive(Debug)]
pub(super) struct ModelProto {
    pub(super) pieces: Vec<Piece>,
    pub(super) trainer: TrainerSpec,
    pub(super) normalizer: NormalizerSpec,
    /// Whether text is changed again after decoding.
    pub(super) denormalizes: bool,
}

type Result<T> = std::result::Result<T, String>;

/// `<0x41>` → 0x41.
pub(super) fn byte_value(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

pub(super) fn parse(bytes: &[u8]) -> Result<ModelProto> {
    let mut pieces = Vec::new();
    let mut trainer = TrainerSpec {
        model_type: ModelType::Unigram,
        byte_fallback: false,
        whitespace_suffix: false,
        unk_surface: " \u{2047} ".into(),
        bos_id: 1,
        eos_id: 2,
        pad_id: -1,
    };
    let mut normalizer = default_normalizer();
    let mut denormalizer = default_normalizer();
    let mut reader = Reader(bytes);
    while let Some((number, value)) = reader.field()? {
        match number {
            1 => pieces.push(piece(value.bytes()?)?),
            2 => trainer_spec(value.bytes()?, &mut trainer)?,
            3 => normalizer_spec(value.bytes()?, &mut normalizer)?,
            5 => normalizer_spec(value.bytes()?, &mut denormalizer)?,
            _ => {}
        }
    }
    if pieces.is_empty() {
        return Err("it has no pieces".into());
    }
    Ok(ModelProto { pieces, trainer, normalizer, denormalizes: !denormalizer.charsmap.is_empty() })
}

fn piece(bytes: &[u8]) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    let mut reader = Reader(bytes);
    while let Some((number, value)) = reader.field()? {
        match number {
            1 => piece.text = value.text()?,
            // Adding zero makes -0.0, the first score of a trained model, compare equal to 0.0.
            2 => piece.score = value.float()? + 0.0,
            3 => {
                piece.kind = match value.integer()? {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("piece type {other} is unknown")),
                }
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn trainer_spec(bytes: &[u8], spec: &mut TrainerSpec) -> Result<()> {
    let mut reader = Reader(bytes);
    while let Some((number, value)) = reader.field()? {
        match number {
            3 => {
                spec.model_type = match value.integer()? {
                    1 => ModelType::Unigram,
                    2 => ModelType::Bpe,
                    3 => ModelType::Word,
                    4 => ModelType::Char,
                    other => return Err(format!("model type {other} is unknown")),
                }
            }
            24 => spec.whitespace_suffix = value.integer()? != 0,
            35 => spec.byte_fallback = value.integer()? != 0,
            // An int32 below zero (switched off) is written as a 64-bit varint.
            41 => spec.bos_id = value.integer()? as i32,
            42 => spec.eos_id = value.integer()? as i32,
            43 => spec.pad_id = value.integer()? as i32,
            44 => spec.unk_surface = value.text()?,
            _ => {}
        }
    }
    Ok(())
}

fn default_normalizer() -> NormalizerSpec {
    NormalizerSpec {
        charsmap: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
    }
}

fn normalizer_spec(bytes: &[u8], spec: &mut NormalizerSpec) -> Result<()> {
    let mut reader = Reader(bytes);
    while let Some((number, value)) = reader.field()? {
        match number {
            2 => spec.charsmap = value.bytes()?.to_vec(),
            3 => spec.add_dummy_prefix = value.integer()? != 0,
            4 => spec.remove_extra_whitespaces = value.integer()? != 0,
            5 => spec.escape_whitespaces = value.integer()? != 0,
            _ => {}
        }
    }
    Ok(())
}

/// A field's value by wire type; no field read here is 64 bits fixed, so those count as bytes.
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

impl<'a> Value<'a> {
    fn integer(self) -> Result<u64> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err("a field has the wrong wire type".into()),
        }
    }

    fn float(self) -> Result<f32> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err("a field has the wrong wire type".into()),
        }
    }

    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("a field has the wrong wire type".into()),
        }
    }

    fn text(self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "a string is not UTF-8".into())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next field's number and value, or `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| truncated())?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().map_err(|_| truncated())?),
            other => return Err(format!("wire type {other} is unknown")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("an integer is longer than 64 bits".into())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn truncated() -> String {
    "it ends in the middle of a field".into()
}
