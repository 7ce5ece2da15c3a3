//! [`section!`] and [`choice!`]: a configuration struct or enum, declared once, with its documentation and defaults.

/// Declares a configuration section.
///
/// ```text
/// section! {
///     /// How weights are updated.
///     pub struct OptimConfig {
///         /// Peak learning rate.
///         pub lr: f64 = 5e-5,
///         /// Stop after this many steps.
///         pub max_steps: u64,
///         /// Where to log, if anywhere.
///         pub log: Option<PathBuf> = None,
///     }
/// }
/// ```
///
/// A field without `= default` is required. `Option` fields default to `None` (TOML cannot write "unset"). The struct is
/// `Debug + Clone + PartialEq + Serialize + Deserialize + Describe`, and `Default` if no field is required.
macro_rules! section {
    (
        $(#[doc = $doc:literal])* $vis:vis struct $name:ident {
            $( $(#[doc = $field_doc:literal])* $field_vis:vis $field:ident : $type:ty = $default:expr ),* $(,)?
        }
    ) => {
        $crate::config::section! { @define
            $(#[doc = $doc])* $vis struct $name {
                $( $(#[doc = $field_doc])* $field_vis $field : $type = $default ),*
            }
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default ),* }
            }
        }
    };
    (
        $(#[doc = $doc:literal])* $vis:vis struct $name:ident {
            $( $(#[doc = $field_doc:literal])* $field_vis:vis $field:ident : $type:ty $( = $default:expr )? ),* $(,)?
        }
    ) => {
        $crate::config::section! { @define
            $(#[doc = $doc])* $vis struct $name {
                $( $(#[doc = $field_doc])* $field_vis $field : $type $( = $default )? ),*
            }
        }
    };
    (
        @define $(#[doc = $doc:literal])* $vis:vis struct $name:ident {
            $( $(#[doc = $field_doc:literal])* $field_vis:vis $field:ident : $type:ty $( = $default:expr )? ),*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        $vis struct $name {
            $( $(#[doc = $field_doc])* $field_vis $field: $type ),*
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> std::result::Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Given {
                    $( $field: Option<$type> ),*
                }
                let given = Given::deserialize(deserializer)?;
                Ok(Self { $( $field: $crate::config::section!(@value given.$field, $field $(, $default)?) ),* })
            }
        }

        impl $crate::config::Describe for $name {
            fn shape() -> $crate::config::Shape {
                $crate::config::Shape::Section($crate::config::Section {
                    doc: $crate::config::Section::paragraph(&[$($doc),*]),
                    fields: vec![ $( $crate::config::Field {
                        key: stringify!($field),
                        doc: $crate::config::Section::paragraph(&[$($field_doc),*]),
                        shape: <$type as $crate::config::Describe>::shape(),
                        default: $crate::config::section!(@default $type $(, $default)?),
                        required: $crate::config::section!(@required $($default)?),
                    } ),* ],
                })
            }
        }
    };
    (@value $given:expr, $field:ident, $default:expr) => { $given.unwrap_or_else(|| $default) };
    (@value $given:expr, $field:ident) => {
        $given.ok_or_else(|| serde::de::Error::missing_field(stringify!($field)))?
    };
    (@default $type:ty, $default:expr) => {{
        let default: $type = $default;
        toml::Value::try_from(default).ok()
    }};
    (@default $type:ty) => { None };
    (@required $default:expr) => { false };
    (@required) => { true };
}

/// Declares an enum written as a string: `pub enum Kind { /// doc  Linear = "linear", … }`.
///
/// It is `Copy + Debug + Eq + Display + Serialize + Deserialize + Describe`.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])* $vis:vis enum $name:ident {
            $( $(#[doc = $variant_doc:literal])* $variant:ident = $text:literal ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $vis enum $name {
            $( $(#[doc = $variant_doc])* #[serde(rename = $text)] $variant ),*
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $( Self::$variant => $text ),* })
            }
        }

        impl clap::ValueEnum for $name {
            fn value_variants<'a>() -> &'a [Self] {
                &[$( Self::$variant ),*]
            }

            fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
                let (text, doc) = match self {
                    $( Self::$variant => ($text, $crate::config::Section::paragraph(&[$($variant_doc),*])) ),*
                };
                Some(clap::builder::PossibleValue::new(text).help(doc))
            }
        }

        impl $crate::config::Describe for $name {
            fn shape() -> $crate::config::Shape {
                $crate::config::Shape::Choice(vec![
                    $( ($text, $crate::config::Section::paragraph(&[$($variant_doc),*])) ),*
                ])
            }
        }
    };
}

pub(crate) use {choice, section};
