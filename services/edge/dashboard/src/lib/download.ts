// Tables from the edge as files: what a chart shows, as CSV.

import { session } from "./session.svelte";

/** Fetches a table and gives it to the browser as a file. The edge streams it; nothing of it is parsed here. */
export async function download(path: string, query: Record<string, string | undefined>, file: string): Promise<void> {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  const get = async (token: string) => fetch(url, { headers: { accept: "text/csv", authorization: `Bearer ${token}` } });
  let response = await get(await session.token());
  // Revoked or expired early: once more with a new token.
  if (response.status === 401) response = await get(await session.freshToken());
  if (!response.ok) {
    const status: { message?: string } = await response.json().catch(() => ({}));
    throw new Error(status.message || `the server answered ${response.status}`);
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
