/** The one-time token that the terminal's link carries, in the query or after the #. */

export interface Arrival {
  token: string | null;
  address: string; // without the token: what the address bar and the history may keep
}

export function readToken(href: string): Arrival {
  const url = new URL(href);
  const hash = new URLSearchParams(url.hash.replace(/^#/, ""));
  const token = url.searchParams.get("token") ?? hash.get("token");
  url.searchParams.delete("token");
  if (hash.has("token")) {
    hash.delete("token");
    url.hash = hash.toString();
  }
  return { token: token || null, address: url.href.replace(/#$/, "") };
}
