// Generated from openapi.json by `npm run client`. Do not edit.

export interface paths {
    "/healthz": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Health
         * @description The process answers. Open to all.
         */
        get: operations["health"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/generations": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List Generations
         * @description Every generation, newest first.
         */
        get: operations["list_generations"];
        put?: never;
        /**
         * Create Generation
         * @description Ask for images. Answers at once with the job; `Prefer: wait=N` waits for it, at most 60 s.
         */
        post: operations["create_generation"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/generations/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get Generation
         * @description A job as it is now.
         */
        get: operations["get_generation"];
        put?: never;
        post?: never;
        /**
         * Delete Generation
         * @description Delete the job and its images; an unfinished one is canceled first.
         */
        delete: operations["delete_generation"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/generations/{id}/cancel": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Cancel Generation
         * @description Stop at the next step. Finished images stay; a finished job is left as it is.
         */
        post: operations["cancel_generation"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/generations/{id}/events": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Watch Generation
         * @description Server-sent events: `status` (first, as a snapshot), `progress`, `preview`, `output`, `reconnect`.
         *
         *     Ids rise. With Last-Event-ID the stream goes on where it broke off; where that is no longer known it starts with a
         *     snapshot, which has every output so far. It ends after the status that ends the job.
         */
        get: operations["watch_generation"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/generations/{id}/images.zip": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get Generation Zip
         * @description The images of a finished job, named by index, class and seed.
         */
        get: operations["get_generation_zip"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/images/{id}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get Image
         * @description One image. Its PNG carries the recipe (text chunk `kartina`) and the marker `synthetic`.
         */
        get: operations["get_image"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List Models
         * @description Every model, your own first, then the bundled ones.
         */
        get: operations["list_models"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{ref}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get Model
         * @description A model's card: what it makes, how well, its controls.
         */
        get: operations["get_model"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{ref}/classes/{index}.png": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get Model Class Image
         * @description One generated example of a class, by its index.
         */
        get: operations["get_model_class_image"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/models/{ref}/samples.png": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get Model Samples
         * @description Uncurated images of fixed seeds, one row a class.
         */
        get: operations["get_model_samples"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/session": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Get Session
         * @description Whether this caller is signed in, and to what.
         */
        get: operations["get_session"];
        put?: never;
        /**
         * Open Session
         * @description Exchange the start-up token for a session cookie.
         */
        post: operations["open_session"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
}
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        /**
         * ClassQuality
         * @description How well one class is generated.
         */
        ClassQuality: {
            /**
             * Agreement
             * @description Share that a classifier of real images calls this class
             */
            agreement?: number | null;
            /** Class */
            class: string;
            /**
             * Coverage
             * @description Share of real images with a generated image near by
             */
            coverage?: number | null;
            /**
             * Diversity
             * @description Variety relative to real images: 1 is equal
             */
            diversity?: number | null;
            /**
             * Reason
             * @description Why a number is null: "too few" real images to tell
             */
            reason?: string | null;
            /**
             * Train
             * @description Training images of this class
             */
            train?: number | null;
        };
        /** DataRef */
        DataRef: {
            /**
             * Counts
             * @description Training images per class
             */
            counts: {
                [key: string]: number;
            };
            /**
             * Hash
             * @description Content hash of the data set
             */
            hash: string;
            /** Name */
            name: string;
        };
        /**
         * GenerationRequest
         * @description Ask for n images. Image i has the seed `seed + i` and the label `labels[i mod len(labels)]`.
         */
        GenerationRequest: {
            /**
             * Controls
             * @description Over the defaults; see the model's tasks
             * @default {}
             */
            controls: {
                [key: string]: components["schemas"]["JsonValue"];
            };
            /**
             * Labels
             * @description Class names; left out: every class in turn
             */
            labels?: string[] | null;
            /**
             * Model
             * @description name, name@version or the start of a hash
             */
            model: string;
            /**
             * N
             * @description Images in all
             * @default 1
             */
            n: number;
            /**
             * Seed
             * @description Left out: a new one is drawn
             */
            seed?: number | null;
            /**
             * Task
             * @default generate
             * @constant
             */
            task: "generate";
        };
        /**
         * GenerationSettings
         * @description The request as it was accepted: nothing left open. Sent again, it makes the same images.
         */
        GenerationSettings: {
            /** Controls */
            controls: {
                [key: string]: components["schemas"]["JsonValue"];
            };
            /** Labels */
            labels: string[];
            /**
             * Model
             * @description name@version
             */
            model: string;
            /** N */
            n: number;
            /** Seed */
            seed: number;
            /** Task */
            task: string;
        };
        /** Health */
        Health: {
            /**
             * Status
             * @default ok
             * @constant
             */
            status: "ok";
        };
        /** ImageShape */
        ImageShape: {
            /** Channels */
            channels: number;
            /** Height */
            height: number;
            /** Width */
            width: number;
        };
        /**
         * Job
         * @description A request that was accepted, and what has become of it.
         */
        Job: {
            /** Completed At */
            completed_at?: string | null;
            /**
             * Created At
             * Format: date-time
             */
            created_at: string;
            /** @description Why it failed */
            error?: components["schemas"]["Problem"] | null;
            /** Id */
            id: string;
            /**
             * Kind
             * @default generation
             * @constant
             */
            kind: "generation";
            metrics: components["schemas"]["JobMetrics"];
            /**
             * Outputs
             * @description The images finished so far, by index
             */
            outputs: components["schemas"]["OutputImage"][];
            progress: components["schemas"]["Progress"];
            /**
             * Queue Position
             * @description 1 is next; null when not queued
             */
            queue_position?: number | null;
            request: components["schemas"]["GenerationSettings"];
            /** Started At */
            started_at?: string | null;
            /**
             * Status
             * @description queued, running or canceling; then for good succeeded, failed or canceled
             * @enum {string}
             */
            status: "queued" | "running" | "succeeded" | "failed" | "canceling" | "canceled";
            urls: components["schemas"]["JobUrls"];
        };
        /** JobMetrics */
        JobMetrics: {
            /**
             * Execution Ms
             * @description From the first step to the end
             */
            execution_ms?: number | null;
            /**
             * Queue Ms
             * @description From acceptance to the first step
             */
            queue_ms?: number | null;
        };
        /** JobPage */
        JobPage: {
            /** Items */
            items: components["schemas"]["Job"][];
            /**
             * Next Cursor
             * @description Pass it as `cursor` for the next page; null at the end
             */
            next_cursor?: string | null;
        };
        /** JobUrls */
        JobUrls: {
            /** Cancel */
            cancel: string;
            /** Events */
            events: string;
            /** Self */
            self: string;
            /** Zip */
            zip: string;
        };
        JsonValue: unknown;
        /**
         * Metric
         * @description A number and what it takes to compare it with another: the same shape wherever numbers appear.
         */
        Metric: {
            /**
             * Floor
             * @description What as many real images score; of class_agreement, the held-out split itself
             */
            floor?: number | null;
            /**
             * Identity
             * @description How it was measured; equal identities can be compared
             * @default {}
             */
            identity: {
                [key: string]: components["schemas"]["JsonValue"];
            };
            /**
             * Interval
             * @description [low, high] over generation seeds
             */
            interval?: [
                number,
                number
            ] | null;
            /** Value */
            value: number;
        };
        /**
         * Model
         * @description A model package: what it makes, how well, and where it came from.
         */
        Model: {
            /** About */
            about: string;
            /**
             * Bundled
             * @description Comes with Kartina, and cannot be deleted
             */
            bundled: boolean;
            /**
             * Classes
             * @description Class names in label order; empty for an unconditional model
             */
            classes: string[];
            /** Created At */
            created_at: string | null;
            data: components["schemas"]["DataRef"];
            /** Family */
            family: string;
            /** Hash */
            hash: string;
            image: components["schemas"]["ImageShape"];
            /** Licence */
            licence: string;
            /** Metrics */
            metrics: {
                [key: string]: components["schemas"]["Metric"];
            };
            /** Name */
            name: string;
            /**
             * Parameters
             * @description Parameters needed for sampling
             */
            parameters: number;
            /**
             * Per Class
             * @description Worst class first
             */
            per_class: components["schemas"]["ClassQuality"][];
            /** Preset */
            preset: string | null;
            /**
             * Ref
             * @description name@version
             * @example fashion@1
             */
            ref: string;
            /** Tasks */
            tasks: {
                [key: string]: components["schemas"]["Task"];
            };
            urls: components["schemas"]["ModelUrls"];
            /** Version */
            version: number;
        };
        /** ModelPage */
        ModelPage: {
            /** Items */
            items: components["schemas"]["Model"][];
            /**
             * Next Cursor
             * @description Pass it as `cursor` for the next page; null at the end
             */
            next_cursor?: string | null;
        };
        /** ModelUrls */
        ModelUrls: {
            /**
             * Classes
             * @description One example image for each class, in label order
             */
            classes: (string | null)[];
            /**
             * Samples
             * @description A grid of uncurated images, one row a class
             */
            samples: string | null;
            /** Self */
            self: string;
        };
        /**
         * OutputEvent
         * @description `event: output`: one image is finished.
         */
        OutputEvent: {
            output: components["schemas"]["OutputImage"];
            /**
             * Type
             * @default output
             * @constant
             */
            type: "output";
        };
        /** OutputImage */
        OutputImage: {
            /** Height */
            height: number;
            /** Id */
            id: string;
            /**
             * Index
             * @description Which of the n images
             */
            index: number;
            /**
             * Label
             * @description Its class; null for an unconditional model
             */
            label: string | null;
            /** Seed */
            seed: number;
            /** Url */
            url: string;
            /** Width */
            width: number;
        };
        /**
         * PreviewEvent
         * @description `event: preview`: what unfinished images look like so far, at most about twice a second.
         */
        PreviewEvent: {
            /** Images */
            images: components["schemas"]["PreviewImage"][];
            /**
             * Type
             * @default preview
             * @constant
             */
            type: "preview";
        };
        /** PreviewImage */
        PreviewImage: {
            /** Index */
            index: number;
            /**
             * Url
             * @description data:image/png;base64,...
             */
            url: string;
        };
        /**
         * Problem
         * @description An error (RFC 9457): what was found, what was expected, what to do.
         */
        Problem: {
            /**
             * Code
             * @description The kind of problem, for a program; stable
             * @example not_found
             */
            code: string;
            /**
             * Detail
             * @description What happened: what was found, what was expected, what to do
             */
            detail: string;
            /**
             * Errors
             * @description One line for each wrong value: where it is, what is expected
             * @default []
             */
            errors: string[];
            /**
             * Request Id
             * @description Names this request in the service's log
             * @default null
             */
            request_id: string | null;
            /**
             * Status
             * @description The HTTP status (in a job's error: the one that the job would have answered with)
             */
            status: number;
            /**
             * Title
             * @description The kind of problem, for a person
             */
            title: string;
            /**
             * Type
             * @description URI of the kind of problem
             * @example urn:kartina:problem:not_found
             */
            type: string;
        };
        /** Progress */
        Progress: {
            /**
             * Step
             * @description Sampling steps done, over all images
             */
            step: number;
            /**
             * Steps
             * @description Sampling steps there are, over all images; 0 before it is known
             */
            steps: number;
            /** Value */
            value: number;
        };
        /**
         * ProgressEvent
         * @description `event: progress`: at most about 4 a second; only the newest is kept for a reader that comes late.
         */
        ProgressEvent: {
            progress: components["schemas"]["Progress"];
            /**
             * Type
             * @default progress
             * @constant
             */
            type: "progress";
        };
        /**
         * ReconnectEvent
         * @description `event: reconnect`: the service is about to stop; connect again with Last-Event-ID.
         */
        ReconnectEvent: {
            /**
             * Type
             * @default reconnect
             * @constant
             */
            type: "reconnect";
        };
        /** Session */
        Session: {
            /**
             * Mode
             * @description local: one person, on this machine, by the start-up token
             * @constant
             */
            mode: "local";
            /**
             * Version
             * @description Kartina's version
             */
            version: string;
        };
        /** SessionRequest */
        SessionRequest: {
            /**
             * Token
             * @description The token that `kartina serve` printed in its URL
             */
            token: string;
        };
        /**
         * StatusEvent
         * @description `event: status`: the whole job. Sent on connection as the snapshot, and whenever the status changes.
         */
        StatusEvent: {
            job: components["schemas"]["Job"];
            /**
             * Type
             * @default status
             * @constant
             */
            type: "status";
        };
        /**
         * Task
         * @description One thing that a model can do.
         */
        Task: {
            /**
             * Defaults
             * @description The controls' default values
             */
            defaults: {
                [key: string]: components["schemas"]["JsonValue"];
            };
            /**
             * Inputs
             * @description What it needs beside labels: "image", "mask"
             */
            inputs: string[];
            /**
             * Schema
             * @description JSON Schema of its controls
             */
            schema: {
                [key: string]: components["schemas"]["JsonValue"];
            };
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type $defs = Record<string, never>;
export interface operations {
    health: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Health"];
                };
            };
        };
    };
    list_generations: {
        parameters: {
            query?: {
                /** @description `next_cursor` of the page before */
                cursor?: string | null;
                /** @description Items a page */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["JobPage"];
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    create_generation: {
        parameters: {
            query?: never;
            header?: {
                /** @description `image/png` with n=1: the image itself */
                accept?: string | null;
                /** @description `wait=N`: wait for it for N s */
                prefer?: string | null;
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["GenerationRequest"];
            };
        };
        responses: {
            /** @description Finished within Prefer: wait=N; or, for Accept: image/png, the image */
            200: {
                headers: {
                    /** @description The job */
                    Location?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Job"];
                    "image/png": string;
                };
            };
            /** @description Accepted: it is on the disk and will be done */
            202: {
                headers: {
                    /** @description The job */
                    Location?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Job"];
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not acceptable */
            406: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request is too large */
            413: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The queue is full */
            429: {
                headers: {
                    /** @description Seconds */
                    "Retry-After"?: string;
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description A stored file is damaged; something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Could not be stored */
            507: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    get_generation: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Job"];
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description A stored file is damaged; something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    delete_generation: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            204: {
                headers: {
                    [name: string]: unknown;
                };
                content?: never;
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Could not be stored */
            507: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    cancel_generation: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Job"];
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description A stored file is damaged; something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Could not be stored */
            507: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    watch_generation: {
        parameters: {
            query?: {
                /** @description Send `preview` events, too */
                previews?: boolean;
            };
            header?: {
                /** @description Go on after this event */
                "last-event-id"?: string | null;
            };
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/event-stream": unknown;
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description A stored file is damaged; something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    get_generation_zip: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A ZIP of PNGs */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/zip": string;
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Conflict */
            409: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description A stored file is damaged; something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    get_image: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                id: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A PNG that carries its recipe */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "image/png": string;
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    list_models: {
        parameters: {
            query?: {
                /** @description `next_cursor` of the page before */
                cursor?: string | null;
                /** @description Items a page */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ModelPage"];
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    get_model: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description name, name@version, or at least 8 digits of a hash */
                ref: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Model"];
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description A stored file is damaged; something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    get_model_class_image: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                index: number;
                /** @description name, name@version, or at least 8 digits of a hash */
                ref: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A PNG */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "image/png": string;
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description A stored file is damaged; something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    get_model_samples: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description name, name@version, or at least 8 digits of a hash */
                ref: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A PNG */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "image/png": string;
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not found */
            404: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description A stored file is damaged; something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    get_session: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Session"];
                };
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    open_session: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["SessionRequest"];
            };
        };
        responses: {
            /** @description Successful Response */
            204: {
                headers: {
                    [name: string]: unknown;
                };
                content?: never;
            };
            /** @description Not signed in */
            401: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Refused */
            403: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request is too large */
            413: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Not the host of this service */
            421: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description The request cannot be used */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
            /** @description Something went wrong */
            500: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
}
