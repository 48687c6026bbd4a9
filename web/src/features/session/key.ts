/** Where the visit is cached. */
export const SESSION_KEY = ["session"] as const;
