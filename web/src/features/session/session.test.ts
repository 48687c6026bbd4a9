import { describe, expect, it } from "vitest";
import { ProblemError } from "@/lib/problem";
import { arrive, type Door } from "./arrive";
import { readToken } from "./token";

const refusal = (status: number) => new ProblemError({ status, code: "x", title: "x", detail: "" });
const session = { mode: "local" as const, version: "0.1.0", name: "local", scopes: [] };

function door(answers: Partial<Door>): Door & { log: string[] } {
  const log: string[] = [];
  return {
    log,
    open: async (token) => {
      log.push(`open ${token}`);
      return answers.open?.(token);
    },
    get: async () => {
      log.push("get");
      return answers.get ? answers.get() : session;
    },
    clean: (address) => log.push(`clean ${address}`),
  };
}

describe("readToken", () => {
  it("finds the token in the query or after the #, and an address without it", () => {
    expect(readToken("http://127.0.0.1:8000/?token=abc")).toEqual({
      token: "abc",
      address: "http://127.0.0.1:8000/",
    });
    expect(readToken("http://127.0.0.1:8000/#token=abc")).toEqual({
      token: "abc",
      address: "http://127.0.0.1:8000/",
    });
    expect(readToken("http://127.0.0.1:8000/?model=m%401&token=abc").address).toBe(
      "http://127.0.0.1:8000/?model=m%401",
    );
    expect(readToken("http://127.0.0.1:8000/").token).toBeNull();
    expect(readToken("http://127.0.0.1:8000/?token=").token).toBeNull();
  });
});

describe("arrive", () => {
  const arrival = { token: "abc", address: "http://a/" };

  it("cleans the address before the token is used, then enters", async () => {
    const at = door({});
    expect(await arrive(arrival, at)).toEqual({ kind: "in", session });
    expect(at.log).toEqual(["clean http://a/", "open abc", "get"]);
  });

  it("enters by the cookie alone", async () => {
    const at = door({});
    expect(await arrive({ ...arrival, token: null }, at)).toEqual({ kind: "in", session });
    expect(at.log).toEqual(["get"]);
  });

  it("still enters with an old link where the cookie is good", async () => {
    const at = door({ open: () => Promise.reject(refusal(401)) });
    expect(await arrive(arrival, at)).toEqual({ kind: "in", session });
  });

  it("stays out without a session, and says whether a token was refused", async () => {
    const get = () => Promise.reject(refusal(401));
    expect(await arrive({ ...arrival, token: null }, door({ get }))).toEqual({ kind: "out", refused: false });
    const open = get;
    expect(await arrive(arrival, door({ get, open }))).toEqual({ kind: "out", refused: true });
  });

  it("tells of a service that does not answer", async () => {
    const offline = () => Promise.reject(refusal(0));
    await expect(arrive(arrival, door({ open: offline }))).rejects.toThrow(ProblemError);
    await expect(arrive(arrival, door({ get: offline }))).rejects.toThrow(ProblemError);
  });
});
