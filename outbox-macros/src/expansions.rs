//! Snapshots of what the macros expand to, formatted as Rust. The snapshots are the reference for
//! the expansions shown in the documentation; after a deliberate change, review them with
//! `cargo insta review` or `INSTA_UPDATE=always`.

use proc_macro2::TokenStream;
use quote::quote;

use crate::{job, message, subscriber};

fn formatted(expansion: TokenStream) -> String {
    let file = syn::parse2(expansion).expect("an expansion is a list of items");
    prettyplease::unparse(&file)
}

#[test]
fn a_plain_job() {
    let expansion = job::expand(
        quote!(),
        quote! {
            async fn welcome(user: NewUser) -> outbox::Result {
                greet(&user).await
            }
        },
    );
    insta::assert_snapshot!(formatted(expansion));
}

#[test]
fn a_job_with_every_setting() {
    let expansion = job::expand(
        quote! {
            kind = "mail.welcome", queue = "mail", max_attempts = 8, timeout = "500ms",
            lease_ttl_seconds = 60, retry = RetryPolicy::Never, aliases("welcome", "greet"),
            priority = -1, crate = my::queueing,
        },
        quote! {
            /// Greets a new user.
            #[cfg(feature = "mail")]
            #[doc(hidden)]
            #[tracing::instrument]
            pub(crate) async fn welcome(
                NewUser { id, .. }: NewUser,
                Data(smtp): Data<Smtp>,
                #[cfg(feature = "lease")] lease: Lease,
            ) -> Result<(), SmtpError> {
                smtp.greet(id).await
            }
        },
    );
    insta::assert_snapshot!(formatted(expansion));
}

#[test]
fn a_plain_subscriber() {
    let expansion = subscriber::expand(
        quote!(),
        quote! {
            async fn reserve(order: OrderPlaced) {
                stock(order.id).await;
            }
        },
    );
    insta::assert_snapshot!(formatted(expansion));
}

#[test]
fn a_subscriber_with_every_setting() {
    let expansion = subscriber::expand(
        quote! {
            queue = "orders", lease_ttl = "1m", timeout_seconds = 5, max_attempts = 3,
            retry = RetryPolicy::Fixed(SECOND), crate = "outbox_core"
        },
        quote! {
            pub async fn reserve(order: OrderPlaced, lease: Lease) -> outbox::Result {
                stock(order.id, lease.fence()).await
            }
        },
    );
    insta::assert_snapshot!(formatted(expansion));
}

#[test]
fn a_plain_message() {
    let expansion = message::expand(quote! {
        struct OrderPlaced {
            id: i64,
        }
    });
    insta::assert_snapshot!(formatted(expansion));
}

#[test]
fn a_message_with_every_setting() {
    let expansion = message::expand(quote! {
        #[message(kind = "order.placed", queue = "orders", max_attempts = 5)]
        #[message(group = self.customer, key = self.id, aliases("order.created"), crate = core)]
        pub enum OrderPlaced {
            Online { id: i64, customer: i64 },
        }
    });
    insta::assert_snapshot!(formatted(expansion));
}

#[test]
fn the_users_item_survives_every_mistake() {
    let item = quote! {
        fn welcome<T>(&self, user: &T) -> impl Sized {
            user.greet()
        }
    };
    for expansion in [
        job::expand(quote!(colour = "red"), item.clone()),
        subscriber::expand(quote!(queue), item.clone()),
        job::expand(
            quote!(),
            quote!(
                struct Welcome;
            ),
        ),
        subscriber::expand(quote!(= =), quote!(async fn reserve())),
    ] {
        let text = expansion.to_string();
        let kept = [
            item.to_string(),
            "struct Welcome ;".to_owned(),
            "async fn reserve ()".to_owned(),
        ];
        assert!(kept.iter().any(|kept| text.starts_with(kept)), "{text}");
        assert!(text.contains(":: core :: compile_error !"), "{text}");
    }
}

#[test]
fn a_function_that_cannot_be_a_handler_still_has_its_struct() {
    let expansion = job::expand(
        quote!(),
        quote!(
            fn welcome() {}
        ),
    );
    insta::assert_snapshot!(formatted(expansion));
}

/// Not a UI test: the compiler's own errors about such functions change with its version.
#[test]
fn a_variadic_function_is_refused() {
    let expansion = job::expand(
        quote!(),
        quote!(
            async fn welcome(user: u64, _: ...) {}
        ),
    );
    let text = expansion.to_string();
    assert!(text.contains("a fixed number of parameters"), "{text}");
}
