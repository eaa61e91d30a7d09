// Reads a watch stream for as long as the reader wants it: through restarts, network failures and the stream's own end.

import { fromBinary } from "@bufbuild/protobuf";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";

/** What a resuming stream does: trying, delivering, or waiting to try again. */
export type StreamState = "connecting" | "live" | "waiting";

/** How to read. */
export interface ResumeOptions {
  /** Ends the stream when aborted. */
  signal?: AbortSignal;
  /** Where to go on; empty = everything as it is now, then what changes. */
  cursor?: string;
  /** A stream that is silent for longer is opened anew; bookmarks come every 5 s. Default 20,000 ms. */
  idleMs?: number;
  /** Called when the state changes; `error` says why it waits. */
  onState?: (state: StreamState, error?: ConnectError) => void;
  /** Called before each attempt. An empty cursor means that a new snapshot follows. */
  onOpen?: (cursor: string) => void;
}

const fatal = new Set([Code.PermissionDenied, Code.NotFound, Code.Unimplemented]);
const longestWait = 8_000;

/**
 * Opens the stream with the last cursor again whenever it ends, and yields each message once.
 * Throws where trying again cannot help: the caller may not watch, or what is watched does not exist.
 */
export async function* resume<M extends { cursor: string }>(
  open: (cursor: string, signal: AbortSignal) => AsyncIterable<M>,
  options: ResumeOptions = {},
): AsyncGenerator<M, void, undefined> {
  const { signal, idleMs = 20_000, onState, onOpen } = options;
  let cursor = options.cursor ?? "";
  let failures = 0;
  while (!signal?.aborted) {
    const attempt = new AbortController();
    const end = () => attempt.abort();
    signal?.addEventListener("abort", end, { once: true });
    let watchdog = setTimeout(end, idleMs);
    let delivered = false;
    let error: ConnectError | undefined;
    onState?.("connecting");
    onOpen?.(cursor);
    try {
      for await (const message of open(cursor, attempt.signal)) {
        clearTimeout(watchdog);
        watchdog = setTimeout(end, idleMs);
        if (!delivered) {
          delivered = true;
          failures = 0;
          onState?.("live");
        }
        yield message;
        // Messages within a snapshot have no cursor: the snapshot is complete with its bookmark.
        if (message.cursor) cursor = message.cursor;
      }
    } catch (cause) {
      error = ConnectError.from(cause);
    } finally {
      clearTimeout(watchdog);
      signal?.removeEventListener("abort", end);
      attempt.abort();
    }
    if (signal?.aborted) return;
    // The end of a stream's age is clean, and the next one follows at once.
    if (!error && delivered) continue;
    if (error && fatal.has(error.code)) throw error;
    if (error && cursor && (error.code === Code.OutOfRange || error.code === Code.InvalidArgument)) {
      // The server cannot continue from there any more: start over with a snapshot.
      cursor = "";
      continue;
    }
    if (error && failures > 2 && (error.code === Code.Unauthenticated || error.code === Code.InvalidArgument)) {
      throw error;
    }
    onState?.("waiting", error);
    await pause(error ? (askedToWait(error) ?? backoff(failures)) : backoff(failures), signal);
    failures += 1;
  }
}

function backoff(failures: number): number {
  return Math.min(longestWait, 250 * 2 ** failures) * (0.5 + Math.random() / 2);
}

/** The `google.rpc.RetryInfo` of an error: one field, a Duration. */
function askedToWait(error: ConnectError): number | undefined {
  for (const detail of error.details) {
    if ("type" in detail && detail.type === "google.rpc.RetryInfo" && detail.value.length >= 2) {
      const delay = fromBinary(DurationSchema, detail.value.subarray(2));
      return Math.min(longestWait, Number(delay.seconds) * 1000 + delay.nanos / 1e6);
    }
  }
  return undefined;
}

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(finish, ms);
    signal?.addEventListener("abort", finish, { once: true });
    function finish() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", finish);
      done();
    }
  });
}
